"""Adam in one pass over each parameter, with the rate's warm-up and decay and a bound on the gradient's length."""

from collections.abc import Mapping

import torch
from torch import Tensor

CLIP = 1.0
WARM = 1000  # steps, or a tenth of all where those are few
DECAY = 0.2  # of all steps, at the end


def share_of_rate(step: int, steps: int) -> float:
    """Of the highest rate, at a step of so many: up over `WARM` steps, down to 0 over the last fifth."""
    warm = max(1, min(WARM, steps // 10))
    left = (steps - step) / max(1.0, DECAY * steps)
    return max(0.0, min(1.0, (step + 1) / warm, left))


class Adam:
    """torch's Adam, fused; parameters and gradients by name, moments as tensors that a checkpoint can hold."""

    def __init__(self, parameters: Mapping[str, Tensor], rate: float, steps: int) -> None:
        self.parameters, self.rate, self.steps = parameters, rate, steps
        self.first = {name: torch.zeros_like(x) for name, x in parameters.items()}
        self.second = {name: torch.zeros_like(x) for name, x in parameters.items()}

    def length(self, grads: Mapping[str, Tensor]) -> float:
        """Of all the gradients as one vector."""
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([*grads.values()]))))

    def step(self, grads: Mapping[str, Tensor], number: int, norm: float) -> None:
        """Move each parameter, at step `number` from 0. norm: the gradients' length, which is bounded by `CLIP`."""
        names = [*self.parameters]
        own = [grads[name] for name in names]
        scale = torch.full((), max(norm / CLIP, 1.0), device=own[0].device)
        count = torch.full((), float(number + 1), device=own[0].device)
        torch._fused_adam_(
            [self.parameters[name] for name in names],
            own,
            [self.first[name] for name in names],
            [self.second[name] for name in names],
            [],
            [count.clone() for _ in names],
            lr=self.rate * share_of_rate(number, self.steps),
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=scale if norm > CLIP else None,
            found_inf=None,
        )

    def state(self) -> dict[str, Tensor]:
        return {f"first/{name}": x for name, x in self.first.items()} | {
            f"second/{name}": x for name, x in self.second.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name in self.parameters:
            self.first[name].copy_(tensors[f"first/{name}"])
            self.second[name].copy_(tensors[f"second/{name}"])
