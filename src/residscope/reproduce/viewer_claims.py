"""The viewer's guide, sentence by sentence: what was measured, the criterion, and whether it held on this model."""

from collections.abc import Mapping
from typing import Any

import torch

from residscope.reproduce.kinds import AUXILIARY, NAME
from residscope.reproduce.viewer import Pick, Study
from residscope.views import Card

STRONG = 0.9  # an AUC that parts two kinds of words
POSITION = 0.5  # a rank correlation that one would see at a glance
EXACT = 1e-4


def cards(study: Study) -> list[Card]:
    """A claim of the guide each, with the numbers, the criterion, and whether it held."""
    return [
        _stream(study), _mixing(study), _position(study), _eighth(study), _somewhere(study), _interpretable(study),
        *(_used(study, name) for name in study.removed), _flaw(study),
    ]  # fmt: skip


def _card(claim: str, fields: Mapping[str, Any], held: bool | None, criterion: str) -> Card:
    verdict = None if held is None else "passed" if held else "failed"
    return Card(claim, {name: _said(value) for name, value in fields.items()}, verdict=verdict, note=criterion)  # type: ignore[arg-type]


def _said(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _stream(study: Study) -> Card:
    found = study.stream
    return _card(
        "The stream starts as the embedding, each layer adds to it, and its end is the prediction",
        {"start, relative error": found.start, "what layers add": found.added, "logits off its end": found.end},
        max(found.start, found.added, found.end) < EXACT,
        f"held if every relative error is under {EXACT:g}",
    )


def _mixing(study: Study) -> Card:
    return _card(
        "Directions can be combined: the colours of a mix are the mix of the colours",
        {"relative error": study.stream.mixed},
        study.stream.mixed < EXACT,
        f"held if under {EXACT:g}: this is why sliders recolour without asking the model",
    )


def _position(study: Study) -> Card:
    best = study.best_position
    at_start = float(study.position.values[1, 0].abs().max())
    return _card(
        "Some component is primarily about position: early tokens one colour, later tokens the other",
        {
            "best": str(best),
            "rho with position, held out": best.held,
            "where it was chosen": best.chosen,
            "largest at the embedding": at_start,
        },
        abs(best.held) >= POSITION,
        f"held if |rho| is {POSITION} or more on tokens it was not chosen on. GPT-2 adds position vectors to its embeddings; a model "
        "with rotary positions has none in its stream until attention writes them",
    )


def _eighth(study: Study) -> Card:
    own = study.seeds_own
    component = min(own.index, len(study.vocabulary) - 1)
    vocabulary, n = float(study.vocabulary[component]), study.counts
    strong = (study.words.values[1, 0] - 0.5).abs() >= STRONG - 0.5
    return _card(
        "Layer 0, Component Index 7: auxiliary verbs at one end, proper nouns at the other",
        {
            "AUC in text": own.held,
            "AUC over the vocabulary": vocabulary,
            "tokens": f"{n[AUXILIARY]} auxiliary verbs ({n[AUXILIARY + ', distinct']} distinct), {n[NAME]} names ({n[NAME + ', distinct']})",
            "components of layer 0 that part them as well": int(strong.sum()),
        },
        min(_parts(own.held), _parts(vocabulary)) >= STRONG,
        f"held if both AUCs are {STRONG} or more, or {1 - STRONG:.1f} or less: which end is which is a sign that no fit decides. The "
        "guide speaks of GPT-2 small; another model's eighth component need not be the same",
    )


def _somewhere(study: Study) -> Card:
    best = study.best_words
    parting = (study.words.values[1] - 0.5).abs().amax(1) >= STRONG - 0.5
    return _card(
        "... and in some component of some layer",
        {
            "best": str(best),
            "AUC, held out": best.held,
            "layers with a component that parts them": f"{int(parting.sum())} of {len(study.rows)}",
        },
        _parts(best.held) >= STRONG,
        f"held if the component chosen on one half has an AUC of {STRONG} or more (or its mirror) on the other",
    )


def _interpretable(study: Study) -> Card:
    component = torch.tensor([k == "component" for k in study.tokens.coords["kind"]])
    own, drawn = study.tokens.values[:, component], study.tokens.values[:, ~component]
    beaten = own > drawn.quantile(0.95, dim=1, keepdim=True)
    return _card(
        "Many components are interpretable at a glance: their colour goes with the token",
        {
            "components that go with the token more than 95 % of random directions": f"{beaten.double().mean():.0%}",
            "median eta squared, components": float(own.median()),
            "median eta squared, random directions": float(drawn.median()),
        },
        float(beaten.double().mean()) > 0.1,
        "held if over 10 % do (5 % would by chance); random directions are drawn as the data varies. Going with the token is the least "
        "that a reader sees at a glance, not all of it",
    )


def _used(study: Study, name: str) -> Card:
    cost = study.removed[name]
    measures = [float(x) for x in cost.cost.values]
    others = cost.random.values[0]
    return _card(
        f"Even so, there is no guarantee that the model uses {name}",
        {
            "KL without it, nats a token": measures[0],
            "random directions of equal variance, median": float(others.median()),
            "p": cost.p["KL"],
            "rise of the loss, nats": measures[1],
        },
        None,
        "no verdict: the guide warns, and the number says. Used, if losing it costs more than losing as much variance elsewhere (p < 0.05)",
    )


def _flaw(study: Study) -> Card:
    rho = study.flawed.values.abs()
    return _card(
        "What the viewer drew: components of standardised vectors, dotted with raw ones",
        {
            "median |rho| with the true coordinate": float(rho.median()),
            "components under 0.9": f"{(rho < 0.9).double().mean():.0%}",
            "least": float(rho.min()),
        },
        None,
        "no claim of the guide, but of its code: tokens come out in another order. Here a standardised direction carries its own mean and "
        "scale, and reads as scikit-learn's transform does",
    )


def _parts(auc: float) -> float:
    """How well it parts the two kinds, whichever end is which."""
    return max(auc, 1 - auc)


def told(pick: Pick) -> str:
    return f"{pick}: {pick.held:+.2f} held out"
