"""Classes of heads knocked out, each beside random heads of its layers; the circuit alone; and everything but it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.model.prompts import PromptSet
from residscope.reproduce.ioi.classes import AT
from residscope.reproduce.ioi.measures import Head, Means, Placed, knocked, random_like

CIRCUIT, ALONE, NOTHING = "the circuit", "the circuit alone", "no head at all"


@dataclass(frozen=True, eq=False)
class Knock:
    """What is left of the logit difference and of the name movers' attention to IO less that to S1, prompt by prompt.

    chance: the same, once for each draw of random heads, as many at the same positions of the same layers.
    """

    after: Float[Tensor, " prompt"]
    gap: Float[Tensor, " prompt"]
    chance: Float[Tensor, "draw prompt"]
    chance_gap: Float[Tensor, "draw prompt"]


def knocks(
    model: Model,
    data: PromptSet,
    means: Means,
    classes: Mapping[str, Sequence[Head]],
    movers: Sequence[Head],
    draws: int,
    draw: torch.Generator,
    watch: Mapping[str, Any],
) -> tuple[Knock, dict[str, Knock]]:
    """Without any knock-out; and for each class that has heads, the whole circuit out, the circuit alone, and no head at all."""
    placed: dict[str, dict[str, tuple[Head, ...]]] = {name: {AT[name]: tuple(of)} for name, of in classes.items() if of}
    circuit: dict[str, tuple[Head, ...]] = {}
    for one in placed.values():
        for where, heads in one.items():
            circuit[where] = circuit.get(where, ()) + heads
    taken = [head for heads in circuit.values() for head in heads]
    asked: dict[str, tuple[bool, Placed]] = {name: (False, of) for name, of in placed.items()}
    asked |= {CIRCUIT: (False, circuit), ALONE: (True, circuit), NOTHING: (True, {})}
    cells: list[tuple[bool, Placed]] = [(False, {})]
    for name, (keep, of) in asked.items():
        several = range(0 if name == NOTHING else draws)
        own = {where: heads if name in (CIRCUIT, ALONE) else (*heads, *taken) for where, heads in of.items()}
        cells += [(keep, of)]
        cells += [
            (keep, {where: random_like(model, heads, own[where], draw) for where, heads in of.items()}) for _ in several
        ]
    rows = iter(knocked(model, data, means, cells, movers, **watch))

    def take(n: int) -> Knock:
        first, rest = next(rows), [next(rows) for _ in range(n)]
        chance = torch.stack(rest) if rest else first.new_zeros(0, *first.shape)
        return Knock(first[:, 0], first[:, 1], chance[..., 0], chance[..., 1])

    before = take(0)
    return before, {name: take(0 if name == NOTHING else draws) for name in asked}
