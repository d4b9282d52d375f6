"""Many features of a run scaled at once, at several dictionaries: the nodes of a graph, or all the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.edits.features import joined, wide
from residscope.engine.model import Model
from residscope.engine.protocols import At, Edit
from residscope.graph.nodes import Level, Node
from residscope.model.sites import Site, SiteTable

Chosen = Mapping[str, Sequence[tuple[int, int | None]]]  # features by dictionary, each with its position; None: all


@dataclass(frozen=True, eq=False)
class Cut(Edit):
    """Some features of a dictionary set where they are: the rest stays as this run has it, the dictionary's error included.

        y + sum_i where_i (scale held_i - a_i) write_i,    a = encode(x)

    held[row, pos, i]: what they are in the whole run; none is needed at scale 0, where they are taken out. others: all but these
    are taken out, at the positions `keep`. where[row, pos, i], keep[row, pos]: of one row, the same for every row.
    """

    dictionary: Dictionary
    read: Site
    write: Site
    model: Model
    index: tuple[int, ...]
    where: Bool[Tensor, "row pos some"]
    keep: Bool[Tensor, "row pos"]
    held: Float[Tensor, "row pos some"] | None = None
    scale: float = 0.0
    others: bool = False

    def places(self, table: SiteTable) -> list[Site]:
        return [self.write]

    def reads(self, table: SiteTable) -> list[Site]:
        return [] if self.read == self.write else [self.read]

    def apply(self, value: Tensor, at: At) -> Tensor:
        there = wide(value)
        x = joined(self.dictionary, there if self.read == self.write else wide(at.seen(self.read)))
        here = slice(at.offset, at.offset + value.shape[1])
        where = at.mine(self.where)[:, here].to(x)
        if self.others:
            whole = self.dictionary.encode(x, model=self.model)
            if self.index:
                whole[..., list(self.index)] *= 1 - where
            whole = whole * at.mine(self.keep)[:, here, None].to(whole)
            index = (whole != 0).flatten(0, -2).any(0).nonzero()[:, 0].tolist()
            change = -whole[..., index]
        else:
            index = [*self.index]
            change = -self.dictionary.encode(x, model=self.model, indices=index)
            if self.held is not None:
                change = change + self.scale * at.mine(self.held)[:, here].to(x)
            change = change * where
        if not index:
            return value
        moved = self.dictionary.added(x, change.to(there), index)
        return (there + moved.reshape(there.shape)).to(value.dtype)

    def __repr__(self) -> str:
        return f"{'all but ' if self.others else ''}{len(self.index)} features of {self.dictionary.name}"


def by_level(nodes: Sequence[Node], *, placed: bool = True) -> dict[str, list[tuple[int, int | None]]]:
    """The features of nodes by their dictionaries; placed=False: wherever they are active, also of nodes of one position."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    for node in nodes:
        one = (node.index, node.pos if placed else None)
        if one not in (of := found.setdefault(node.dictionary, [])):
            of.append(one)
    return found


def cut(
    model: Model, levels: Sequence[Level], chosen: Chosen, keep: Bool[Tensor, "row pos"], *, scale: float = 0.0
) -> tuple[Cut, ...]:
    """The edits that hold these features at `scale` times what they are in the levels' run, at their positions or at all that
    are kept; at 0 they are taken out, in whatever run."""
    return tuple(_cut(model, level, chosen[level.id], keep, scale=scale) for level in levels if chosen.get(level.id))


def cut_others(model: Model, levels: Sequence[Level], chosen: Chosen, keep: Bool[Tensor, "row pos"]) -> tuple[Cut, ...]:
    """The edits that take all other features of the levels out, at all positions that are kept."""
    return tuple(_cut(model, level, chosen.get(level.id, ()), keep, others=True) for level in levels)


def _cut(
    model: Model,
    level: Level,
    features: Sequence[tuple[int, int | None]],
    keep: Bool[Tensor, "row pos"],
    *,
    scale: float = 0.0,
    others: bool = False,
) -> Cut:
    index = list(dict.fromkeys(i for i, _ in features))
    where = torch.zeros(*keep.shape, len(index), dtype=torch.bool)
    for i, pos in features:
        column = index.index(i)
        where[:, :, column] |= keep if pos is None else keep & (torch.arange(keep.shape[1]) == pos)
    held = level.coordinates[None][..., index] if scale else None
    return Cut(
        level.dictionary, level.read_site, level.write_site, model, tuple(index), where, keep, held, scale, others
    )
