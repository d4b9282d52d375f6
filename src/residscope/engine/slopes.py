"""Slopes of many numbers of one run at once: part of the run again with autograd's graph, and batched backward passes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.forward import forward
from residscope.engine.memory import budget
from residscope.engine.protocols import At, Edit
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.errors import NoGradient, WeightsChanged
from residscope.model.sites import Site, SiteTable, positions_axis

MOST = 64  # numbers of one backward pass: more are no faster for each


@dataclass(frozen=True, eq=False)
class Held(Edit):
    """What stands at some sites, whatever comes in: the same for every row."""

    values: Mapping[Site, Tensor]

    def places(self, table: SiteTable) -> list[Site]:
        return list(self.values)

    def apply(self, value: Tensor, at: At) -> Tensor:
        axis = positions_axis(at.site)
        own = self.values[at.site].to(value)
        return own.narrow(axis, at.offset, value.shape[axis]).expand(value.shape)


@dataclass(frozen=True, eq=False)
class Live:
    """Part of a value that goes on depending on an earlier site, where a graph is cut: `of` what stands there."""

    site: Site
    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Marked(Edit):
    """Places where slopes are asked for. It changes no value, unless `empty`.

    `before` keeps a value as it came, `after` as what follows depends on it.

    cut: what follows depends on `after` alone, and no more on what came before, but for what is `live`. empty: and there is
    nothing: the value is what is `live` of it.
    """

    sites: tuple[Site, ...]
    cut: bool = False
    empty: bool = False
    live: Mapping[Site, Live] = field(default_factory=dict)
    before: dict[Site, Tensor] = field(default_factory=dict)
    after: dict[Site, Tensor] = field(default_factory=dict)

    def places(self, table: SiteTable) -> list[Site]:
        return list(self.sites)

    def reads(self, table: SiteTable) -> list[Site]:
        return [live.site for live in self.live.values()]

    def apply(self, value: Tensor, at: At) -> Tensor:
        self.before[at.site] = value
        live = self.live.get(at.site)
        rest = None if live is None else live.of(at.seen(live.site)).to(value)
        own = value if rest is None else value - rest
        own = torch.zeros_like(own) if self.empty else own
        new = own.detach().clone().requires_grad_() if self.cut or not own.requires_grad else own.clone()
        self.after[at.site] = new
        return new if rest is None else new + rest


def graphed(
    record: Recording, capture: Iterable[Site], edits: Sequence[Edit] = (), *, start: int = 0
) -> dict[Site, Tensor]:
    """The values at some sites of a recorded run, from block `start` on under these further edits, with the graph behind them.

    A graph begins at the leaves that the edits make (`Marked`). Raises QuantisedModel; WeightsChanged: the model is another.
    """
    model = record.model
    model.require_exact_weights("gradients")
    if record.stale:
        raise WeightsChanged("the model has changed since this run", fix="run the prompt again")
    window = Window(record, start) if start else None
    old = record.edits
    with torch.enable_grad():
        return forward(
            model.layout,
            record.batch,
            capture=capture,
            edits=edits if start else [*old, *edits],
            earlier=old if start else (),
            window=window,
            unedited=record.unedited,
            grad=True,
        )


def slopes(
    numbers: Float[Tensor, " n"], leaves: Sequence[Tensor], *, width: int = 0
) -> Iterator[tuple[range, list[Tensor]]]:
    """d number / d leaf, for as many numbers at a time as memory allows: which, and [number, *leaf] for each leaf.

    One backward pass for all of them, batched. width: values that a backward pass has besides those of the leaves, for each
    number. Raises NoGradient: the model's arithmetic has none.
    """
    if not numbers.requires_grad:
        raise NoGradient("nothing that was marked leads to these numbers", received=f"{len(numbers)} numbers")
    each = numbers.element_size() * (width + sum(leaf.numel() for leaf in leaves))
    most = max(1, min(MOST, budget(numbers.device) // 2 // max(1, each)))
    one = torch.eye(len(numbers), dtype=numbers.dtype, device=numbers.device)
    for first in range(0, len(numbers), most):
        some = range(first, min(first + most, len(numbers)))
        grads = torch.autograd.grad(
            numbers,
            list(leaves),
            one[some.start : some.stop],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        yield (
            some,
            [
                leaf.new_zeros(len(some), *leaf.shape) if grad is None else grad.detach()
                for leaf, grad in zip(leaves, grads, strict=True)
            ],
        )
