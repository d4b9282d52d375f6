"""Numbers of a study that its claims and its page both tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from residscope.methods._lib.intervals import bootstrap
from residscope.reproduce.ioi.classes import looking, strongest
from residscope.reproduce.ioi.knocks import Knock
from residscope.reproduce.ioi.measures import LOOKS, Head
from residscope.reproduce.ioi.paths import everywhere
from residscope.reproduce.ioi.study import Study

TIMES = 2.0  # the effect of the controls, which a stage's must reach


def words(heads: Sequence[Head]) -> str:
    """Heads as they are written: 9.6, 9.9."""
    return ", ".join(f"{a}.{h}" for a, h in heads) or "none"


def mean_of(values: Tensor) -> str:
    """A mean and its interval."""
    if len(values) < 2:
        return f"{float(values.mean()):+.2f}"
    low, high = bootstrap(values)
    return f"{float(values.mean()):+.2f} ({float(low):+.2f} to {float(high):+.2f})"


def looked(study: Study, heads: Sequence[Head], look: tuple[str, str]) -> float:
    """The mean attention of some heads from one named position to another."""
    own = study.attention.values[LOOKS.index(look)].double().mean(-1)
    return float(torch.stack([own[h] for h in heads]).mean()) if heads else float("nan")


def others(study: Study, heads: Sequence[Head]) -> list[Head]:
    """The other heads of the same layers: the control of where heads look."""
    every = study.attention.values.shape[2]
    return [(a, h) for a in sorted({a for a, _ in heads}) for h in range(every) if (a, h) not in heads]


def effect(study: Study, of: Mapping[str, Any], stage: str, heads: Sequence[Head]) -> float:
    """The mean effect of some senders at a stage; NaN where it was not run."""
    if stage not in of or not heads:
        return float("nan")
    values = everywhere(of[stage], study.attention.values.shape[1])
    return float(torch.stack([values[h] for h in heads]).mean())


def most_at(study: Study, heads: Sequence[Head], here: str, there: Sequence[str]) -> int:
    """How many of the heads look from one position most at one of some others."""
    at = looking(study.attention.values.mean(-1), here)
    return sum(at[head] in there for head in heads)


def effects_of(study: Study, stage: str) -> Tensor:
    """A stage's effects by layer and head; zero for what was no sender, and where the stage was not run."""
    layers, heads = study.attention.values.shape[1:3]
    return everywhere(study.paths[stage], layers) if stage in study.paths else torch.zeros(layers, heads)


def correlations(study: Study, heads: Sequence[Head]) -> list[float]:
    """Of each head, over prompts: its attention from END to IO with its direct effect."""
    look = study.attention.values[LOOKS.index(("END", "IO"))]
    pairs = [torch.stack([look[head].double(), study.direct.values[head].double()]) for head in heads]
    return [float(torch.corrcoef(pair)[0, 1]) for pair in pairs]


def kept(study: Study, knock: Knock) -> float:
    """The mean logit difference that is left, as a share."""
    return float(knock.after.mean() / study.before.after.mean())


def gainers(study: Study) -> tuple[Head, ...]:
    """The four heads of later layers that gain most direct effect once the writers are out."""
    gains = study.repair.heads.values.clone()
    gains[: min(layer for layer, _ in study.receive) + 1] = 0
    return strongest(gains, 4, sign=1, without=study.receive)


def stronger(study: Study, stage: str, heads: Sequence[Head]) -> bool:
    """Whether senders do more than through random receivers, and than the other heads of their layers, several times."""
    own = -effect(study, study.paths, stage, heads)
    beside = [effect(study, study.beside, stage, heads), effect(study, study.paths, stage, others(study, heads))]
    return own > 0 and all(own >= TIMES * abs(x) for x in beside)
