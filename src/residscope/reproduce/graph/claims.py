"""The post, claim by claim: what was measured, the criterion, and whether it held on this model with these dictionaries."""

from collections.abc import Mapping
from typing import Any

import torch

from residscope.reproduce.graph.study import MAIN, Cut, Study
from residscope.views import Card

SEED: Mapping[str, tuple[tuple[str, float], ...]] = {
    MAIN: ((")", 0.823), ("VS", 0.009), ("AL", 0.006)),
    "Lisp": ((" )", 0.422), (" ).", 0.149), (" ),", 0.048)),
    "report": (("NET", 0.149), ("iti", 0.104), ("rain", 0.061)),
    "investment": (("DI", 0.999), ("D", 0.0), ("DR", 0.0)),
}
"""What GPT-2-small says next, as the post has it."""
LEVEL = 0.05
FEW, HALF, LINEAR, SAME = 0.1, 0.5, 0.95, 0.5


def cards(study: Study) -> list[Card]:
    """A claim of the post each, with the numbers, the criterion, and whether it held."""
    contexts = ("Lisp", "report", "investment")
    return [
        _closes(study), _few(study), _propagate(study), *(_necessary(study, name) for name in contexts), _placed(study),
        _only(study), _random(study), _linear(study), _embedding(study),
    ]  # fmt: skip


def share(cut: Cut, before: torch.Tensor) -> float:
    """The change of the likeliest token's probability, as a share of what it was: -1 is all of it."""
    top = int(before.argmax())
    return float(cut.after[top] / before[top] - 1)


def rank(cut: Cut, before: torch.Tensor) -> float:
    """How often random active features, as many, lower the likeliest token at least as far: (r + 1) / (n + 1)."""
    top = int(before.argmax())
    return float(((cut.chance <= cut.after[top]).sum() + 1) / (len(cut.chance) + 1))


def _card(claim: str, fields: Mapping[str, Any], held: bool | None, criterion: str) -> Card:
    verdict = None if held is None else "passed" if held else "failed"
    rounded = {name: float(f"{x:.3g}") if isinstance(x, float) else x for name, x in fields.items()}
    return Card(claim, rounded, verdict=verdict, note=criterion)  # type: ignore[arg-type]


def _closes(study: Study) -> Card:
    before = study.before[MAIN]
    top = int(before.argmax())
    fields = {"says next": repr(study.tokens[top]), "probability": float(before[top]), "GPT-2-small": "')', 0.823"}
    held = study.tokens[top].strip().startswith(")") and float(before[top]) > HALF
    return _card(
        "The model is confident of how “Copyright (C” goes on: with )", fields, held, "held if it is ), over a half"
    )


def _few(study: Study) -> Card:
    fields = {
        "edges": study.total,
        "hold half of all |effect|": study.half,
        "as a share": study.half / max(1, study.total),
    }
    return _card(
        "A few features hold most of what happens between layers", fields, study.half <= FEW * study.total,
        f"held if {FEW:.0%} of the edges or fewer hold half",
    )  # fmt: skip


def _propagate(study: Study) -> Card:
    like, high = float(study.like.median()), float(study.unlike.quantile(0.95))
    fields = {
        "cosine along the strongest edges, median": like, "of random pairs, 95th percentile": high,
        "straight through the stream, median share": float(study.straight.median()),
    }  # fmt: skip
    return _card(
        "Features propagate themselves: the stream is working memory", fields, like > max(SAME, high),
        f"held if the median cosine of what an edge's two ends write is over {SAME}, and over 95 % of random pairs",
    )  # fmt: skip


def _necessary(study: Study, name: str) -> Card:
    before = study.before[name]
    found = {number: study.cuts[number, name] for number in range(len(study.circuits))}
    best = min(found, key=lambda number: (rank(found[number], before), share(found[number], before)))
    cut = found[best]
    enough = LEVEL / len(found)
    fields = {
        "likeliest": repr(study.tokens[int(before.argmax())]), "circuit": best + 1, "of its features active here": cut.there,
        "probability": float(before.max()), "without it, as a share": share(cut, before), "p": rank(cut, before),
    }  # fmt: skip
    return _card(
        f"A path of “Copyright (C” is what answers in “{''.join(study.prompts[name])[-40:]}”", fields,
        share(cut, before) <= -HALF and rank(cut, before) <= enough,
        "held if some path takes half of the likeliest token's probability or more, and more than all but "
        f"{enough:.1%} of as many random features active here do (the level is divided by the number of paths)",
    )  # fmt: skip


def _placed(study: Study) -> Card:
    own, other = [], []
    for (_, name), cut in study.cuts.items():
        before = study.before[name]
        top = int(before.argmax())
        own.append(abs(share(cut, before)))
        other.append(abs(float(cut.placed[top] / before[top] - 1)))
    mine, placed = float(torch.tensor(own).median()), float(torch.tensor(other).median())
    fields = {"a path, median |share|": mine, "features 0, 1, ... in its place": placed, "contexts and paths": len(own)}
    return _card(
        "A control path of equal placement and size does less", fields, placed < mine / 2,
        "held if half as much or less; features 0, 1, ... are mostly inactive, so this is a weak control: the p above is the "
        "strong one",
    )  # fmt: skip


def _only(study: Study) -> Card:
    before = study.before[MAIN]
    top = int(before.argmax())
    left = [float(one[top] / before[top]) for one in study.only]
    fields = {f"circuit {i + 1} alone: share left": value for i, value in enumerate(left)}
    return _card(
        "Keeping only the path is too destructive: it makes a hash of the output", fields, max(left) < HALF,
        "held if under half of the likeliest token's probability is left, whichever path is kept (what the dictionaries leave "
        "out stays in)",
    )  # fmt: skip


def _random(study: Study) -> Card:
    together = [float(torch.corrcoef(halves)[0, 1]) for halves in study.shift]
    kl = [float(one.median()) for one in study.kl]
    fields = {f"circuit {i + 1}: r of two halves of the texts": r for i, r in enumerate(together)}
    fields |= {"median KL, largest, nats": max(kl), "texts": len(study.kl[0])}
    return _card(
        "In random text its effects are basically random", fields, max(together) < SAME,
        "held if the mean change of each token's log-probability over half of the texts and over the other half correlate "
        f"under {SAME}",
    )  # fmt: skip


def _linear(study: Study) -> Card:
    label, x, y = study.dose
    r2 = float(torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2) if y.std() > 0 else 0.0
    return _card(
        "Other coefficients than 0 act almost linearly", {"edge": label, "R²": r2, "coefficients": "0 to 4"}, r2 >= LINEAR,
        f"held if a line explains {LINEAR:.0%} of the target's variance over coefficients",
    )  # fmt: skip


def _embedding(study: Study) -> Card:
    first = study.graph.placed[0].read_site
    return _card(
        "The strong paths do not begin at the embedding", {"first dictionary": first}, None,
        "not judged: it needs a dictionary of the embedding" if first != "resid_pre.0" else "see the graph",
    )  # fmt: skip
