"""The classes of heads, each by what its paths do and where it looks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.methods.heads.head_roles import SEES, SHARE
from residscope.reproduce.ioi.measures import LOOKS, Head

MOVERS, SUPPRESSORS, NEGATIVE = "name movers", "S suppressors", "negative name movers"
INHIBITION, DUPLICATE, INDUCTION, PREVIOUS = (
    "S-inhibition heads", "duplicate token heads", "induction heads", "previous token heads",
)  # fmt: skip
AT = {
    MOVERS: "END", SUPPRESSORS: "END", NEGATIVE: "END", INHIBITION: "END", DUPLICATE: "S2", INDUCTION: "S2", PREVIOUS: "S1+1",
}  # fmt: skip
"""The position at which each class acts."""

Effects = Float[Tensor, "layer head"]
Looks = Float[Tensor, "look layer head"]


def strongest(effects: Effects, n: int, *, sign: int = -1, without: Sequence[Head] = ()) -> tuple[Head, ...]:
    """The heads whose effect of that sign is largest, at most n, none below a tenth of the largest of either sign."""
    sized = sign * effects
    least = SHARE * float(effects.abs().max())
    order = [divmod(i, effects.shape[1]) for i in sized.flatten().argsort(descending=True).tolist()]
    return tuple([h for h in order if float(sized[h]) >= least > 0 and h not in without][:n])


def looking(attention: Looks, here: str) -> dict[Head, str | None]:
    """Which of the named positions each head looks at most from one; None where it gives none of them a tenth."""
    names = [(i, there) for i, (at, there) in enumerate(LOOKS) if at == here]
    some = attention[[i for i, _ in names]]
    most, which = some.max(0)
    return {
        (a, h): names[int(which[a, h])][1] if float(most[a, h]) >= SEES else None
        for a in range(some.shape[1])
        for h in range(some.shape[2])
    }


def writers(effects: Effects, attention: Looks, each: int) -> dict[str, tuple[Head, ...]]:
    """By their paths to the logits: heads for the answer that look at IO, those for it that look at S, those against it."""
    at = looking(attention, "END")
    many = effects.numel()
    for_it, against = strongest(effects, many), strongest(effects, many, sign=1)
    return {
        MOVERS: tuple(h for h in for_it if at[h] == "IO")[:each],
        SUPPRESSORS: tuple(h for h in for_it if at[h] in ("S1", "S2"))[:each],
        NEGATIVE: tuple(h for h in against if at[h] == "IO")[:each],
    }


def tellers(effects: Effects, attention: Looks, each: int) -> dict[str, tuple[Head, ...]]:
    """Of the heads whose paths to the S-inhibition heads' values matter: those that look from S2 at S1, and those at S1+1."""
    at = looking(attention, "S2")
    found = strongest(effects, effects.numel())
    return {
        DUPLICATE: tuple(h for h in found if at[h] == "S1")[:each],
        INDUCTION: tuple(h for h in found if at[h] == "S1+1")[:each],
    }


def mean_effect(effects: Effects, heads: Sequence[Head]) -> float:
    return float(torch.stack([effects[h] for h in heads]).mean()) if heads else float("nan")
