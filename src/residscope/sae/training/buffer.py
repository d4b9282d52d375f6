"""A buffer of vectors that is refilled when half of it is used: batches in random order, from many texts."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from residscope.errors import EmptyCorpus
from residscope.sae.training.stream import Vectors


class Buffer:
    """`size` tokens' vectors at each site, each given once, in an order drawn anew at each refill from `seed`.

    What is put in is multiplied by `scales`, found of the first filling: 1 / sqrt(mean |x|^2), so that a vector's mean square
    length is 1 at every site.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.held: Vectors = {}
        self.scales: dict[str, float] = {}
        self.order = torch.arange(0)
        self.at = self.refills = 0
        self._over: Vectors = {}  # of a run, what did not fit

    @property
    def unread(self) -> int:
        return len(self.order) - self.at

    @property
    def low(self) -> bool:
        """Whether half of it or more is used."""
        return self.unread <= self.size // 2

    def refill(self, runs: "Iterator[Vectors]") -> None:
        """Put new vectors in the place of those that were given. Raises EmptyCorpus where a text has none."""
        free = torch.cat([self.order[: self.at], torch.arange(len(self.order), self.size)])
        filled = 0
        empty = 0
        while filled < len(free):
            vectors, self._over = (self._over or next(runs)), {}
            count = len(next(iter(vectors.values())))
            empty = 0 if count else empty + 1
            if empty > 1000:
                raise EmptyCorpus("every token of the text is left out", fix="give longer texts")
            take = min(count, len(free) - filled)
            slots = free[filled : filled + take]
            for site, x in vectors.items():
                if site not in self.held:
                    self.held[site] = x.new_zeros(self.size, x.shape[1])
                self.held[site][slots.to(x.device)] = x[:take] * self.scales.get(site, 1.0)
            if take < count:
                self._over = {site: x[take:] for site, x in vectors.items()}
            filled += take
        if not self.scales:
            for site, x in self.held.items():
                self.scales[site] = float(x.square().sum(1).mean().clamp_min(1e-30).rsqrt())
                x.mul_(self.scales[site])
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.refills)
        self.order, self.at = torch.randperm(self.size, generator=draw), 0
        self.refills += 1

    def take(self, count: int) -> Vectors:
        """The next `count` tokens' vectors."""
        slots = self.order[self.at : self.at + count]
        self.at += count
        return {site: x.index_select(0, slots.to(x.device)) for site, x in self.held.items()}

    def first(self, count: int) -> Vectors:
        """Vectors of the first filling, without giving them."""
        return {site: x[: min(count, self.size)] for site, x in self.held.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """What is still to be given, and where it stands."""
        slots = self.order[self.at :]
        tensors = {f"held/{site}": x[slots.to(x.device)] for site, x in self.held.items()}
        tensors |= {f"over/{site}": x for site, x in self._over.items()}
        return tensors | {"order": self.order}, {"at": self.at, "refills": self.refills, "scales": dict(self.scales)}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, object], device: torch.device) -> None:
        self.order, self.at, self.refills = tensors["order"].cpu(), int(facts["at"]), int(facts["refills"])  # type: ignore[call-overload]
        self.scales = {site: float(scale) for site, scale in facts["scales"].items()}  # type: ignore[attr-defined]
        slots = self.order[self.at :].to(device)
        for name, x in tensors.items():
            where, _, site = name.partition("/")
            if where == "held":
                self.held[site] = torch.zeros(self.size, x.shape[1], device=device)
                self.held[site][slots] = x.to(device)
            elif where == "over":
                self._over[site] = x.to(device)
