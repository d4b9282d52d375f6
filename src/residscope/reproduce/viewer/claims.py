"""The viewer's guide, sentence by sentence: what was measured, the criterion, and whether it held on this model."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.methods._lib.intervals import by_rank
from residscope.reproduce.viewer.study import GUIDES_OWN, Pick, Study, at_ends
from residscope.reproduce.viewer.tokens import COMPONENTS, DATA, UNIFORM
from residscope.reproduce.viewer.word_kinds import AUXILIARY, NAME
from residscope.results import Result
from residscope.views import Card

STRONG = 0.9  # an AUC that parts two kinds of words
PRIMARILY = 0.5  # the share of the (rank) variance that a component is primarily about
MANY = 0.25
ENOUGH, DISTINCT = 20, 5  # occurrences of a kind of words, and distinct words, that a verdict needs


def cards(study: Study) -> list[Card]:
    """A claim of the guide each, with the numbers, the criterion, and whether it held."""
    return [
        _stream(study), _mixing(study), _position(study), _eighth(study), _somewhere(study), _interpretable(study),
        *(_used(study, name) for name in study.removed), _drawn(study),
    ]  # fmt: skip


def _card(claim: str, fields: Mapping[str, Any], held: bool | None, criterion: str) -> Card:
    verdict = None if held is None else "passed" if held else "failed"
    return Card(claim, {name: _rounded(value) for name, value in fields.items()}, verdict=verdict, note=criterion)  # type: ignore[arg-type]


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _stream(study: Study) -> Card:
    stream = study.stream
    errors = {
        "start, against token and position alone": stream.start,
        "a block, against attention + MLP": stream.added,
        "end, against the logits": stream.end,
    }
    return _card(
        "The stream starts as the embedding, each layer adds to it, and its end is the prediction",
        {**errors, "a block before the end (the control)": stream.before},
        max(errors.values()) < stream.tolerance < stream.before,
        f"relative errors; held if all are under {stream.tolerance:.2g}, and the control is not",
    )


def _mixing(study: Study) -> Card:
    return _card(
        "Directions can be combined: the colours of a mix are the mix of the colours",
        {"relative error of 0.5 PC 0 − 0.2 PC 1": study.stream.mixed},
        study.stream.mixed < study.stream.tolerance,
        f"held if under {study.stream.tolerance:.2g}: why sliders recolour without asking the model",
    )


def _position(study: Study) -> Card:
    best, chance = study.picks["position"], study.chance["position"]
    return _card(
        "Some component is primarily about position: early tokens one colour, later tokens the other",
        {
            "best": str(best),
            "rho with position, held out": best.held,
            "where it was chosen": best.chosen,
            "largest before block 0": float(study.position.values[1, 0].abs().max()),
            "best of as many random directions": chance.held,
        },
        best.held**2 >= PRIMARILY and abs(best.held) > abs(chance.held),
        "held if rho² is a half or more (|rho| 0.71) on texts it was not chosen on, and more than the random one's. GPT-2 adds "
        "position vectors to its embeddings; with rotary positions there is none in the stream before attention writes it",
    )


def _eighth(study: Study) -> Card:
    own, vocabulary = study.picks["guide"], float(study.vocabulary[GUIDES_OWN])
    held_out = study.words.select(half="held out", row=own.site)
    auc, auxiliary, name = held_out.values
    fellows = ((auc - 0.5).abs() >= STRONG - 0.5) & at_ends(auxiliary, name)
    standardised = study.standardised.select(measure="AUC", half="held out", row=own.site).values[GUIDES_OWN]
    ends = bool(at_ends(auxiliary, name)[own.index])
    return _card(
        "Layer 0, Component Index 7: auxiliary verbs at one end, proper nouns at the other",
        {
            "AUC in text": own.held,
            "AUC over the vocabulary": vocabulary,
            "median percentiles, verbs and names": _percentiles(study.words, own),
            "tokens": _counted(study),
            "components of layer 0 that do": ", ".join(map(str, fellows.nonzero()[:, 0].tolist())) or "none",
            "AUC in text, fitted on standardised vectors": float(standardised),
        },
        min(_parts(own.held), _parts(vocabulary)) >= STRONG and ends if _enough(study) else None,
        f"held if both AUCs are {STRONG} or more (or {1 - STRONG:.1f} or less: signs are arbitrary), and the medians lie in "
        "opposite outer quarters of all tokens. The guide speaks of GPT-2 small: another's eighth component need not do this"
        + _few(study),
    )


def _somewhere(study: Study) -> Card:
    best, chance = study.picks["words"], study.chance["words"]
    auc, auxiliary, name = study.words.select(half="held out").values
    ends = at_ends(auxiliary, name)
    both = ((auc - 0.5).abs() >= STRONG - 0.5) & ends
    return _card(
        "... and in some component of some layer",
        {
            "best": str(best),
            "AUC, held out": best.held,
            "median percentiles, verbs and names": _percentiles(study.words, best),
            "rows of the stream with such a component": f"{int(both.any(1).sum())} of {len(study.rows)}",
            "AUC of the best of as many random directions": chance.held,
        },
        (_parts(best.held) >= STRONG and bool(ends[best.row, best.index])) if _enough(study) else None,
        "held if the component chosen on other texts does here what was asked of the eighth; an AUC of 0 parts as well as 1. "
        "Random directions, drawn as the text varies, are the control: where they part verbs from names as well, it is no feat "
        "of components" + _few(study),
    )


def _interpretable(study: Study) -> Card:
    own, uniform, data = (study.tokens[name].values[1:] for name in (COMPONENTS, UNIFORM, DATA))
    beaten = torch.stack([_beating(own, drawn) for drawn in (uniform, data)])
    share = float(beaten.all(0).double().mean())
    return _card(
        "Many components are interpretable at a glance: their colour goes with the token",
        {
            "components that go with the token more than 95 % of random directions": f"{share:.0%}",
            "... of uniform ones, of those drawn as the text varies": " and ".join(
                f"{x:.0%}" for x in beaten.double().mean((1, 2)).tolist()
            ),
            "median eta², components": float(own.median()),
            "uniform, as the text varies": f"{float(uniform.median()):.3g}, {float(data.median()):.3g}",
            "tokens shuffled": float(study.tokens["shuffled"].values[1:].median()),
        },
        share >= MANY,
        f"held if {MANY:.0%} or more beat 95 % of both kinds of random directions (5 % would by chance), after block 0 and on. "
        "Going with the token is the least that a reader sees at a glance, not all of it",
    )


def _used(study: Study, name: str) -> Card:
    cost = study.removed[name]
    kl, loss = cost.cost.values.tolist()
    others, about = cost.random.select(measure="KL").values, cost.provenance
    more = cost.p["KL"] <= 0.05
    ratio = about["variance along it"] / max(about["variance along random directions"], 1e-30)
    return _card(
        f"No guarantee that the network uses it: {name}",
        {
            "KL without it, nats a token": kl,
            "without random directions, median": float(others.median()),
            "p": cost.p["KL"],
            "rise of the loss, nats a token": loss,
            "variance taken away, over the median random one's": ratio,
            "so": "losing it costs more than losing those" if more else "not shown to be used",
        },
        None,
        "no verdict: the guide warns, and the number says. Held at its mean on held-out texts, beside random directions of as "
        "much variance where there are such; p by rank, shown if 0.05 or less",
    )


def _drawn(study: Study) -> Card:
    rho = study.drawn.values.abs()
    return _card(
        "What the viewer drew: components of standardised vectors, dotted with raw ones",
        {
            "median |rho| with the true coordinate": float(rho.median()),
            "components under 0.9": f"{(rho < 0.9).double().mean():.0%}",
            "least": float(rho.min()),
        },
        None,
        "no claim of the guide, but what its code did: tokens come out in another order. Here a standardised component carries "
        "its mean and scale, and reads what scikit-learn's PCA after StandardScaler reads",
    )


def _parts(auc: float) -> float:
    """How well it parts the two kinds, whichever end is which."""
    return max(auc, 1 - auc)


def _percentiles(words: Result, pick: Pick) -> str:
    return " and ".join(f"{x:.0f}" for x in words.values[1:, 1, pick.row, pick.index].tolist())


def _counted(study: Study) -> str:
    names = {AUXILIARY: "auxiliary verbs", NAME: "names"}
    return ", ".join(f"{study.counts[k][0]} {what} ({study.counts[k][1]} distinct)" for k, what in names.items())


def _enough(study: Study) -> bool:
    return all(n >= ENOUGH and distinct >= DISTINCT for n, distinct in study.counts.values())


def _few(study: Study) -> str:
    needed = f"{ENOUGH} words of each kind, {DISTINCT} distinct, in the held-out texts"
    return "" if _enough(study) else f". No verdict: it needs {needed}"


def _beating(own: Float[Tensor, "row k"], drawn: Float[Tensor, "row n"]) -> Tensor:
    """Which have p <= 0.05 by rank; directions that the token explains alike are ties."""
    return torch.tensor(
        [[by_rank(float(x) - 1e-9, others) <= 0.05 for x in row] for row, others in zip(own, drawn, strict=True)]
    )
