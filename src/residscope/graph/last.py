"""One block for many changed streams, where only one position is read: keys and values of all, everything else of that one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.forward import forward
from residscope.engine.memory import budget
from residscope.engine.model import Model
from residscope.engine.windows import Window
from residscope.graph.nodes import Level
from residscope.model.prompts import Batch
from residscope.model.sites import Site, rank

TOKENS = 8_192  # of one pass: more are no faster for each


@dataclass(frozen=True, eq=False)
class Entered:
    """Streams at the entry of a block, as a window asks them of its base; and that block's keys and values, once known."""

    model: Model
    batch: Batch
    stream: Float[Tensor, "row pos d_model"]
    held: tuple[Tensor, Tensor] | None = None

    @property
    def tokens(self) -> Tensor:
        return self.batch.ids

    def __getitem__(self, site: Site) -> Tensor:
        return self.stream

    def keys_values(self, pos: int, *, start: int, stop: int) -> dict[int, tuple[Tensor, Tensor]]:
        assert self.held is not None
        return {start: tuple(x[:, :pos].transpose(1, 2) for x in self.held)}  # type: ignore[dict-item]


def entry_of(level: Level, model: Model) -> int | None:
    """The block at whose entry what a level writes is in the stream, where it changes nothing before that; None elsewhere.

    Not the first block: a forward that starts there starts from the tokens.
    """
    site = level.write_site
    if site.name == "resid_pre":
        return site.layer or None
    if site.name == "mlp_out" and site.layer is not None and site.layer + 1 < model.n_layers:
        return site.layer + 1
    return None


def read_at(
    model: Model, batch: Batch, layer: int, stream: Float[Tensor, "row pos d_model"], at: int, sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """What stands at some sites of a block at one position, for each of some streams that enter it.

    The block's keys and values are taken at every position, and nothing else; then the position alone goes through it, on those.
    Exact under causal attention: the numbers are those of the whole block.
    """
    rows = batch.take([0] * len(stream))
    names = Site("k", layer), Site("v", layer)
    entered = Entered(model, rows, stream)
    found = forward(model.layout, rows, capture=names, window=Window(entered, layer, layer, 0)) if at else {}
    held = (found[names[0]], found[names[1]]) if at else None
    there = Window(Entered(model, rows, stream, held), layer, layer, at)
    values = forward(model.layout, rows, capture=sites, window=there)
    return {site: x[:, :1] for site, x in values.items()}


def passes(model: Model, cells: Sequence[Any], length: int) -> Iterator[tuple[range, Tensor]]:
    """The changes of some edits, as many at once as memory and speed allow: which of them, and their `change`s together."""
    s = model.layout.sizes
    each = length * (4 * s.d_model + 2 * s.n_kv_heads * s.d_head + s.n_heads * s.d_head) * model.dtype.itemsize
    most = max(1, min(TOKENS // length, budget(model.device) // 2 // each))
    for first in range(0, len(cells), most):
        some = range(first, min(first + most, len(cells)))
        yield some, torch.stack([cells[i].change for i in some])


def fits(level: Level, targets: Sequence[Level], model: Model, *, at: int | None, background: Any) -> bool:
    """Whether the sources of a level can be read so: one position, and no block between the entry and what is read."""
    entry = entry_of(level, model)
    near = all(rank(target.read_site, model.n_layers) == entry for target in targets)
    return at is not None and entry is not None and near and not background
