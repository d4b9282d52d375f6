"""The kinds of dictionary, each by what is active and by how a gradient passes through that.

    p = W_enc (x - c) + b_enc,   a = what the kind makes of p,   y' = W_dec a + b_dec

A kind is given dL/da of the reconstruction at its entries, and says dL/dp with its own penalties added. Bussmann et al. (2024),
arXiv:2412.06410 (BatchTopK), and (2025), arXiv:2503.17547 (Matryoshka); Gao et al. (2024), arXiv:2406.04093 (TopK, aux-k);
Rajamanoharan et al. (2024), arXiv:2404.16014 (gated) and arXiv:2407.14435 (JumpReLU).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from residscope.sae.training.active import DENSE, Dense, Entries, Sparse, true_at
from residscope.sae.training.choose import BatchTopK, Products, top_k
from residscope.sae.training.group import ALONE, Group
from residscope.sae.training.plan import Plan

Parameters = dict[str, Tensor]
WIDTH = 0.1  # of JumpReLU's kernel, as a share of the thresholds at the start
GAIN = 0.02  # how fast an L1 penalty is turned


class Kind:
    """What is active. `extra`: parameters of its own; `memory`: numbers that change from step to step."""

    revived = True  # whether the auxiliary loss of dead features is its own

    def __init__(self, plan: Plan, group: Group = ALONE) -> None:
        self.plan, self.group = plan, group
        self.memory: dict[str, float] = {}

    def begin(self, parameters: Parameters, products: Products) -> None:
        """Add the kind's own parameters, from what the first products are."""

    def entries(self, parameters: Parameters, products: Products) -> Entries:
        """The products at every entry that counts, as its values."""
        raise NotImplementedError

    def active(self, parameters: Parameters, entries: Entries) -> Tensor:
        """a, at each entry"""
        return entries.values

    def backward(
        self, parameters: Parameters, entries: Entries, grad: Tensor, tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/dp at each entry, and the gradients of the kind's own parameters, from dL/da. tokens: of the whole batch."""
        return grad, {}


class BatchTop(Kind):
    """BatchTopK: the k B largest of a batch. Saved as JumpReLU, at a moving average of the least that was active."""

    def __init__(self, plan: Plan, group: Group = ALONE) -> None:
        super().__init__(plan, group)
        self.choose = BatchTopK(plan.k, group)

    def entries(self, parameters: Parameters, products: Products) -> Entries:
        self.choose.level = self.memory.get("level", 0.0)
        at, values = self.choose(products)
        self.memory["level"] = self.choose.level
        return Sparse.at(at, values, len(products.x), self.plan.features, self.plan.prefixes)


class TopK(Kind):
    """The k largest of each token."""

    def entries(self, parameters: Parameters, products: Products) -> Entries:
        at, values = top_k(products, self.plan.k)
        return Sparse.at(at, values, len(products.x), self.plan.features)


class Above(Kind):
    """Kinds of which everything above a level counts; while that is much, as a matrix."""

    def level(self, parameters: Parameters) -> Tensor | float:
        return 0.0

    def entries(self, parameters: Parameters, products: Products) -> Entries:
        level = self.level(parameters)
        n = self.plan.features
        if self.memory.get("share", 1.0) > DENSE:
            p = products.whole()
            mask = p > level
            self.memory["share"] = float(mask.sum()) / mask.numel()
            if self.memory["share"] > DENSE:
                return Dense(p * mask, mask)
            at = true_at(mask)
            return Sparse.at(at, p.view(-1).index_select(0, at), len(p), n)
        at, values = products.above(level)
        self.memory["share"] = len(at) / (len(products.x) * n)
        return Sparse.at(at, values, len(products.x), n)

    def of_each(self, per_feature: Tensor, entries: Entries) -> Tensor:
        """A number of each feature, at each entry."""
        return per_feature.index_select(0, entries.features) if isinstance(entries, Sparse) else per_feature

    def inside(self, entries: Entries) -> Tensor:
        return torch.ones_like(entries.values) if isinstance(entries, Sparse) else entries.mask.float()  # type: ignore[attr-defined]

    def turn(self, active: float) -> float:
        """The L1 penalty's weight, turned so that k are active: by the ratio now, and by how it was in the past."""
        error = max(-1.0, min(1.0, torch.log(torch.tensor(max(active, 1e-3) / self.plan.k)).item()))
        self.memory["past"] = self.memory.get("past", -4.0) + GAIN * error
        return float(torch.exp(torch.tensor(self.memory["past"] + error)))


class ReLU(Above):
    """max(p, 0) and an L1 penalty. Bricken et al. (2023)."""

    revived = False

    def backward(
        self, parameters: Parameters, entries: Entries, grad: Tensor, tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        inside = self.inside(entries)
        weight = self.turn(self.group.total(float(inside.sum())) / tokens)
        return (grad + weight / tokens) * inside, {}


class Gated(Above):
    """A gate pi > 0 of its own bias, and a size of its own scale and bias; the penalty and a second loss act on the gate.

    `b_enc` is the gate's; a = max(exp(r_mag) u + b_mag, 0) where u + b_enc > 0, u = W_enc (x - c).
    """

    revived = False

    def begin(self, parameters: Parameters, products: Products) -> None:
        parameters["r_mag"] = torch.zeros_like(parameters["b_enc"])
        parameters["b_mag"] = torch.zeros_like(parameters["b_enc"])

    def active(self, parameters: Parameters, entries: Entries) -> Tensor:
        return self._sized(parameters, entries).relu() * self.inside(entries)

    def _sized(self, parameters: Parameters, entries: Entries) -> Tensor:
        u = entries.values - self.of_each(parameters["b_enc"], entries)
        return self.of_each(parameters["r_mag"].exp(), entries) * u + self.of_each(parameters["b_mag"], entries)

    def backward(
        self, parameters: Parameters, entries: Entries, grad: Tensor, tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/du of the size alone: the gate's is `gate`, since its bias is another."""
        inside = self.inside(entries)
        sized = self._sized(parameters, entries)
        u = entries.values - self.of_each(parameters["b_enc"], entries)
        passed = grad * (sized > 0) * inside
        scale = self.of_each(parameters["r_mag"].exp(), entries)
        own = {"b_mag": entries.sums(passed), "r_mag": entries.sums(passed * scale * u)}
        return passed * scale, own

    def gate(self, entries: Entries, grad: Tensor, tokens: int) -> Tensor:
        """dL/dpi, from that of the reconstruction by max(pi, 0)."""
        inside = self.inside(entries)
        weight = self.turn(self.group.total(float(inside.sum())) / tokens)
        return (grad + weight / tokens) * inside


class JumpReLU(Above):
    """p where p > threshold; the thresholds learn by a kernel of width `WIDTH`, for the loss and for (L0 / k - 1)^2."""

    def begin(self, parameters: Parameters, products: Products) -> None:
        choose = BatchTopK(self.plan.k, self.group)
        choose(products)
        self.memory["width"] = WIDTH * choose.level
        parameters["log_threshold"] = torch.full_like(parameters["b_enc"], choose.level).log()

    def level(self, parameters: Parameters) -> Tensor:
        return (parameters["log_threshold"].exp() - self.memory["width"] / 2).clamp_min(0)

    def active(self, parameters: Parameters, entries: Entries) -> Tensor:
        return entries.values * (entries.values > self._thresholds(parameters, entries))

    def _thresholds(self, parameters: Parameters, entries: Entries) -> Tensor:
        return self.of_each(parameters["log_threshold"].exp(), entries)

    def backward(
        self, parameters: Parameters, entries: Entries, grad: Tensor, tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        width, k = self.memory["width"], self.plan.k
        threshold = self._thresholds(parameters, entries)
        on = (entries.values > threshold) * self.inside(entries)
        near = ((entries.values - threshold).abs() < width / 2) * self.inside(entries)
        active = self.group.total(float(on.sum())) / tokens
        pressed = 2 * (active / k - 1) / k / tokens  # of (L0 / k - 1)^2, by each entry that is on
        per_entry = -(threshold * grad + pressed) / width * near * threshold
        return grad * on, {"log_threshold": entries.sums(per_entry)}


OF: Mapping[str, type[Kind]] = {
    "batchtopk": BatchTop, "matryoshka": BatchTop, "topk": TopK, "relu": ReLU, "gated": Gated, "jumprelu": JumpReLU,
}  # fmt: skip


def kind_of(plan: Plan, group: Group = ALONE) -> Kind:
    return OF[plan.kind](plan, group)


def remembered(kind: Kind) -> dict[str, Any]:
    return dict(kind.memory)
