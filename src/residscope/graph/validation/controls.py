"""Controls: other sets of as many features, or directions, drawn at random where a graph's own are."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.graph.exact import Removed
from residscope.graph.nodes import Level
from residscope.graph.setting import Setting
from residscope.graph.validation.cuts import Chosen, Cut

NEAREST = 4  # of like strength, among which each is drawn


@dataclass(frozen=True, eq=False)
class Drawn:
    """Sets of features drawn for a control. matched: how long what each writes is, as a share of what the graph's write (median).

    missing: why none could be drawn, in words.
    """

    sets: tuple[Chosen, ...]
    matched: float = float("nan")
    missing: str = ""


def strength(level: Level, index: int, pos: int | None, keep: Tensor) -> float:
    """How long what a feature writes is: |a write| at its position, or the root of the sum of squares over all that are kept."""
    where = keep if pos is None else torch.arange(len(keep)) == pos
    return float(level.written(index)[where].double().norm())


def active(levels: Sequence[Level], chosen: Chosen, keep: Tensor, *, n: int, seed: int) -> Drawn:
    """As many features that are active in the run too, each for one of the graph's: of its dictionary, active at its position,
    and one of the 4 nearest in |a write| that are left.
    """
    pools: dict[tuple[str, int | None], dict[int, float]] = {}
    own: list[tuple[str, int | None, float]] = []
    for level in levels:
        mine = {i for i, _ in chosen.get(level.id, ())}
        for i, pos in chosen.get(level.id, ()):
            where = keep if pos is None else torch.arange(len(keep)) == pos
            if (level.id, pos) not in pools:
                others = [j for j in level.active(where) if j not in mine]
                pools[level.id, pos] = {j: strength(level, j, pos, keep) for j in others}
            own.append((level.id, pos, strength(level, i, pos, keep)))
    for (id, pos), pool in pools.items():
        needed = sum((level, where) == (id, pos) for level, where, _ in own)
        if len(pool) < needed:
            return Drawn((), missing=f"{id} has {len(pool)} other active features, and {needed} are needed")
    dice, sets, shares = random.Random(seed), [], []
    whole = sum(s * s for *_, s in own) ** 0.5
    for _ in range(n):
        left = {key: dict(pool) for key, pool in pools.items()}
        found: dict[str, list[tuple[int, int | None]]] = {}
        square = 0.0
        for id, pos, size in dice.sample(own, len(own)):
            pool = left[id, pos]
            nearest = sorted(pool, key=lambda j, pool=pool, size=size: (_apart(pool[j], size), j))[:NEAREST]  # type: ignore[misc]
            picked = dice.choice(nearest)
            square += pool.pop(picked) ** 2
            found.setdefault(id, []).append((picked, pos))
        sets.append(found)
        shares.append(square**0.5 / whole if whole else float("nan"))
    return Drawn(tuple(sets), float(torch.tensor(shares).median()))


def index(levels: Sequence[Level], chosen: Chosen, *, n: int, seed: int) -> Drawn:
    """As many features of each dictionary by number alone, at the same positions: of all but the graph's own, active or not.

    Udell (2024) took feature 0 of each layer.
    """
    dice, sets = random.Random(seed), []
    for level in levels:
        taken = {i for i, _ in chosen.get(level.id, ())}
        if len(level.dictionary) < 2 * len(taken):
            return Drawn(
                (), missing=f"{level.id} has {len(level.dictionary)} features, and the graph has {len(taken)} of them"
            )
    for _ in range(n):
        found: dict[str, list[tuple[int, int | None]]] = {}
        for level in levels:
            mine = chosen.get(level.id, ())
            numbers = list(dict.fromkeys(i for i, _ in mine))
            others = _others(dice, len(level.dictionary), {*numbers}, len(numbers))
            stands_for = dict(zip(numbers, others, strict=True))
            if mine:
                found[level.id] = [(stands_for[i], pos) for i, pos in mine]
        sets.append(found)
    return Drawn(tuple(sets))


def directions(
    levels: Sequence[Level], sizes: Mapping[str, Float[Tensor, "pos 1"]], *, n: int, seed: int
) -> list[tuple[Removed, ...]]:
    """Edits that take a vector of these lengths out at each level and position, along one random direction a level:

    y - size u,    u uniform on the sphere
    """
    g = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        edits = []
        for level in levels:
            u = torch.randn(level.error.shape[-1], generator=g, dtype=torch.float64)
            change = -sizes[level.id] * (u / u.norm()).to(sizes[level.id])
            edits.append(Removed(level.write_site, change, f"{level.id} a random direction"))
        made.append(tuple(edits))
    return made


def sizes_of(setting: Setting, levels: Sequence[Level], cuts: Sequence[Cut]) -> dict[str, Float[Tensor, "pos 1"]]:
    """How long what each cut takes out at each position is, once those before it have been made: two runs for each."""
    model, found = setting.model, {}
    for number, (level, cut) in enumerate(zip(levels, cuts, strict=True)):
        edits, site = [*setting.background, *cuts[:number]], level.write_site
        before, after = (model.run(setting.batch, [site], edits=stack)[site][0] for stack in (edits, [*edits, cut]))
        found[level.id] = (after - before).reshape(level.error.shape).norm(dim=1, keepdim=True)
    return found


def _apart(one: float, other: float) -> float:
    """How far two strengths are from each other, as a ratio."""
    if one > 0 and other > 0:
        return max(one / other, other / one)
    return 1.0 if one == other else float("inf")


def _others(dice: random.Random, of: int, taken: set[int], n: int) -> list[int]:
    """n numbers below `of` that are not taken, without holding all of them."""
    found: dict[int, None] = {}
    while len(found) < n:
        number = dice.randrange(of)
        if number not in taken:
            found[number] = None
    return list(found)
