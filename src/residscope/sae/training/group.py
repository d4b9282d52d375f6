"""The processes that train together: sums, extremes and joins over all of them. One process alone is a group of one."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """`size` processes of torch.distributed's default group, of which this is number `rank`."""

    size: int = 1
    rank: int = 0

    @classmethod
    def here(cls) -> "Group":
        """The group that this process has joined by torch.distributed.init_process_group; one of its own where it has not."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_world_size(), dist.get_rank())

    def sum_(self, tensors: list[Tensor]) -> None:
        """Each tensor, in place, the sum over the group."""
        if self.size > 1:
            import torch.distributed as dist

            for x in tensors:
                dist.all_reduce(x)

    def total(self, number: float) -> float:
        return self._reduced(number, "SUM")

    def least(self, number: float) -> float:
        return self._reduced(number, "MIN")

    def most(self, number: float) -> float:
        return self._reduced(number, "MAX")

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks, however many each has."""
        if self.size == 1:
            return rows
        import torch.distributed as dist

        own = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(counts, own)
        most = int(max(counts))
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of rows that all have; equal parts."""
        if self.size == 1:
            return rows
        each = len(rows) // self.size
        return rows[self.rank * each : (self.rank + 1) * each]

    def _reduced(self, number: float, how: str) -> float:
        if self.size == 1:
            return number
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        held = torch.tensor([number], dtype=torch.float64, device=device)
        dist.all_reduce(held, getattr(dist.ReduceOp, how))
        return float(held)


ALONE = Group()
