"""What a direction says: its tokens by cosine, its share of the variance, its angle to the metric."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Direction, logit_diff
from residscope.fields.directions import AnyDirection, LogitDiffRef, MixRef, PcaRef, SavedRef
from residscope.json_values import finite
from residscope.shown_tokens import visible
from residscope.world.dictionaries import Space, describe_row, fitted_on, in_stream
from residscope.world.loaded import Loaded
from residscope.world.mixing import Term, one_dictionary, terms_of
from residscope.world.session_world import SessionWorld
from residscope.world.values import Metric

MOST_TOLD = 4096
POLES = 5
BEFORE = {"relu": "ReLU", "topk": "top-k", "jumprelu": "jump-ReLU"}
THROUGH = "read through the final norm at every layer: exact at the last, a lens before it."
ZERO = {
    "raw": "Read as a plain dot product, nothing subtracted.",
    "centred": "Centred: its data-set mean counts as zero.",
    "lens": f"In logits, {THROUGH}",
}


class PoleToken(TypedDict):
    text: str
    value: float


class Poles(TypedDict):
    """The common tokens at either end, by cosine; none where its width is not the stream's."""

    top: list[PoleToken]
    bottom: list[PoleToken]


class Component(Poles):
    """One direction of a dictionary, and what it says."""

    index: int
    label: str
    variance: Annotated[float | None, "The share explained."]
    sd: float | None
    cos_logit_diff: float | None


class DictionaryDetail(TypedDict):
    """A dictionary's components: of thousands the first."""

    id: str
    site: str
    head: int | None
    place: str
    kind: str
    space: Space
    standardised: bool
    fitted_on: str
    tokens: int
    components: list[Component]


class DirectionReading(Poles):
    """What one direction says; `about` is a sentence or two."""

    label: str
    about: str
    norm: float | None
    variance: float | None
    sd: float | None
    cos_logit_diff: float | None


def describe_dictionary(
    loaded: Loaded, id: str, metric: Metric | None, *, indices: Sequence[int] | None = None
) -> DictionaryDetail:
    """The query `dictionary` of the wire: of the components at `indices`, or of all, of thousands the first.

    Raises:
        NotFound, DirectionError.
    """
    dictionary = loaded.dictionary(id)
    shown = [*range(min(len(dictionary), MOST_TOLD))] if indices is None else [*indices]
    dictionary.check_index(*shown)
    read = dictionary.read[shown].float()
    wide = in_stream(loaded.model.sites.parse(dictionary.site))
    cosines = _cosines(loaded, read, metric) if wide else [None] * len(read)
    ends = poles(loaded, read) if wide else [_no_poles() for _ in read]
    unknown = torch.full((len(read),), torch.nan)
    share = unknown if dictionary.variance is None else dictionary.variance[shown]
    sd = unknown if dictionary.sd is None else dictionary.sd[shown]
    row = describe_row(id, dictionary, loaded.model.sites, shipped=id in loaded.shipped)
    return {
        "id": row["id"],
        "site": row["site"],
        "head": row["head"],
        "place": row["place"],
        "kind": row["kind"],
        "space": row["space"],
        "standardised": row["standardised"],
        "fitted_on": row["fitted_on"],
        "tokens": row["tokens"],
        "components": [
            {
                "index": index,
                "label": dictionary.label(index),
                "variance": finite(float(share[at])),
                "sd": finite(float(sd[at])),
                "cos_logit_diff": cosines[at],
                **ends[at],
            }
            for at, index in enumerate(shown)
        ],
    }


def describe(ref: AnyDirection, world: SessionWorld) -> DirectionReading:
    """The query `read_direction` of the wire."""
    loaded, metric, direction = world.loaded, world.shown, world.direction(ref)
    fits = in_stream(loaded.model.sites.parse(direction.site))
    read = direction.read.float()[None]
    return {
        "label": direction.name,
        "about": _about(ref, direction, loaded),
        "norm": finite(float(read.norm())),
        "variance": _variance(ref, loaded),
        "sd": finite(direction.scale),
        "cos_logit_diff": _cosines(loaded, read, metric)[0] if fits else None,
        **(poles(loaded, read)[0] if fits else _no_poles()),
    }


def _about(ref: AnyDirection, direction: Direction, loaded: Loaded) -> str:
    """The direction in plain words: what it is, what it was fitted on, what its zero is."""
    if isinstance(ref, PcaRef | MixRef):
        return _about_mix(terms_of(ref), direction, loaded)
    if isinstance(ref, SavedRef):
        came = "From the library" if "library" in direction.provenance else "Imported"
        return f"{came}, made for {direction.place}. {_zero(direction)}"
    what = (
        f"How much higher the logit of '{visible(ref.positive)}' is than that of '{visible(ref.negative)}'"
        if isinstance(ref, LogitDiffRef)
        else f"The logit of '{visible(ref.token)}'"
    )
    return f"{what}, {THROUGH}"


def _about_mix(terms: list[Term], direction: Direction, loaded: Loaded) -> str:
    one = one_dictionary(terms, loaded)
    if one is None:
        return f"A mix of {len(terms)} directions, at {direction.place}. {_zero(direction)}"
    names = [one.label(term.index or 0) for term in terms]
    if one.name == "pca":
        used = ", ".join(str(term.index) for term in terms)
        names = [f"Component {used}" if len(terms) == 1 else f"A mix of components {used}"]
    elif len(terms) > 1:
        names = [f"A mix of {', '.join(names)}"]
    text = fitted_on(one).replace("python-docs", "Python docs").replace("english", "English prose")
    scaled = ", each axis at its own standard deviation" if one.provenance.get("standardised") else ""
    fitted = f", fitted on {text}{scaled}" if text else ""
    return f"{names[0]} of {one.place}{fitted}. {_zero(direction)}"


def _zero(direction: Direction) -> str:
    """What its zero is, and, of an encoder's features, that it is the linear part of them."""
    activations = sorted({BEFORE.get(each, each) for each in _activations(direction.provenance)})
    if not activations:
        return ZERO[direction.space]
    return f"Linear: read before the {' and the '.join(activations)}, and written by the decoder."


def _activations(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Of the encoders that a direction is of, wherever its provenance names them."""
    if isinstance(activation := provenance.get("before"), str):
        yield activation
    for key in ("mix", "sum", "of"):
        parts = provenance.get(key)
        for part in parts if isinstance(parts, list | tuple) else [parts]:
            if isinstance(part, Mapping):
                yield from _activations(part)


def _variance(ref: AnyDirection, loaded: Loaded) -> float | None:
    """The share of the variance along a mix of uncorrelated components: sum_i w_i^2 share_i / |w|^2."""
    if not isinstance(ref, PcaRef | MixRef):
        return None
    terms = terms_of(ref)
    one = one_dictionary(terms, loaded)
    if one is None or one.variance is None or (one.name != "pca" and len(terms) > 1):
        return None
    squares = [(term.weight / max(abs(t.weight) for t in terms)) ** 2 for term in terms]
    along = sum(square * float(one.variance[term.index or 0]) for square, term in zip(squares, terms, strict=True))
    return finite(along / sum(squares))


def _cosines(loaded: Loaded, read: Float[Tensor, "k d_model"], metric: Metric | None) -> list[float | None]:
    if metric is None or metric.positive.id == metric.negative.id:
        return [None] * len(read)
    towards = logit_diff(loaded.model, metric.positive.id, metric.negative.id).read.float()
    cosines = torch.nn.functional.cosine_similarity(read.to(towards.device), towards[None], dim=-1)
    return [finite(c) for c in cosines.tolist()]


def _no_poles() -> Poles:
    return {"top": [], "bottom": []}


def poles(loaded: Loaded, read: Float[Tensor, "k d_model"]) -> list[Poles]:
    """The common tokens a direction raises and lowers most, by the cosine of their unembedding with it."""
    texts, rows = loaded.common
    if not texts:
        return [_no_poles() for _ in read]
    unit = read / read.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosine = unit.to(rows) @ rows.T
    k = min(POLES, len(texts))
    high, low = cosine.topk(k), (-cosine).topk(k)

    def named(ids: list[int], values: list[float]) -> list[PoleToken]:
        return [{"text": texts[i], "value": value} for i, value in zip(ids, values, strict=True)]

    return [
        {
            "top": named(high.indices[row].tolist(), high.values[row].tolist()),
            "bottom": named(low.indices[row].tolist(), (-low.values[row]).tolist()),
        }
        for row in range(len(read))
    ]
