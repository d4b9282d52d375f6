"""What a direction says: its tokens by cosine, its share of the variance, its angle to the metric."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Direction, logit_diff
from residscope.session.build import Directions, resolve
from residscope.session.loaded import Loaded, fitted_on
from residscope.session.specs import DirectionRef, LogitDiffRef, PcaRef, SavedRef
from residscope.session.state import Metric
from residscope.session.wire import finite

POLES = 5


def describe_dictionary(loaded: Loaded, site: str, metric: Metric | None) -> dict[str, Any]:
    """`GET api/directions` of the wire."""
    dictionary = loaded.dictionary(site)
    read = dictionary.read.float()
    cosines = _cosines(loaded, read, metric)
    poles = _poles(loaded, read)
    share = dictionary.variance if dictionary.variance is not None else torch.full((len(read),), torch.nan)
    sd = dictionary.sd if dictionary.sd is not None else torch.full((len(read),), torch.nan)
    return {
        "site": site,
        "fitted_on": fitted_on(dictionary),
        "tokens": int(dictionary.provenance.get("tokens", 0)),
        "components": [
            {
                "index": i,
                "variance": finite(float(share[i])),
                "sd": finite(float(sd[i])),
                "cos_logit_diff": cosines[i],
                **poles[i],
            }
            for i in range(len(read))
        ],
    }


def describe(ref: DirectionRef, loaded: Loaded, saved: Directions, metric: Metric | None) -> dict[str, Any]:
    """`POST api/directions/read` of the wire."""
    direction = resolve(ref, loaded, saved)
    fits = len(direction.read) == loaded.model.d_model
    read = direction.read.float()[None]
    return {
        "label": direction.name,
        "about": _about(ref, direction, loaded),
        "norm": finite(float(read.norm())),
        "variance": _variance(ref, loaded),
        "sd": finite(direction.scale),
        "cos_logit_diff": _cosines(loaded, read, metric)[0] if fits else None,
        **(_poles(loaded, read)[0] if fits else {"top": [], "bottom": []}),
    }


def _about(ref: DirectionRef, direction: Direction, loaded: Loaded) -> str:
    """The direction in plain words: what it is, what it was fitted on, what its zero is."""
    if isinstance(ref, PcaRef):
        used = [index for index, weight in ref.weights.items() if weight]
        what = f"Component {used[0]}" if len(used) == 1 else f"A mix of components {', '.join(used)}"
        corpus = fitted_on(loaded.dictionary(ref.site)).replace("python-docs", "Python docs")
        return f"{what} of {ref.site}, fitted on {corpus}. Centred: its data-set mean counts as zero."
    if isinstance(ref, SavedRef):
        return f"Imported, made for {direction.site}. Read as a plain dot product with the stream, nothing subtracted."
    what = (
        f"How much higher the logit of {ref.positive!r} is than that of {ref.negative!r}"
        if isinstance(ref, LogitDiffRef)
        else f"The logit of {ref.token!r}"
    )
    return f"{what}, read through the final norm at every layer: exact at the last, a lens before it."


def _variance(ref: DirectionRef, loaded: Loaded) -> float | None:
    """The share of the variance along a mix of uncorrelated components: sum_i w_i^2 share_i / |w|^2."""
    if not isinstance(ref, PcaRef):
        return None
    share = loaded.dictionary(ref.site).variance
    squares = {int(index): weight**2 for index, weight in ref.weights.items()}
    if share is None:
        return None
    return finite(sum(square * float(share[i]) for i, square in squares.items()) / sum(squares.values()))


def _cosines(loaded: Loaded, read: Float[Tensor, "k d_model"], metric: Metric | None) -> list[float | None]:
    if metric is None or metric.positive.id == metric.negative.id:
        return [None] * len(read)
    towards = logit_diff(loaded.model, metric.positive.id, metric.negative.id).read.float()
    cosines = torch.nn.functional.cosine_similarity(read.to(towards.device), towards[None], dim=-1)
    return [finite(c) for c in cosines.tolist()]


def _poles(loaded: Loaded, read: Float[Tensor, "k d_model"]) -> list[dict[str, Any]]:
    """The common tokens a direction raises and lowers most, by the cosine of their unembedding with it."""
    texts, rows = loaded.common
    if not texts:
        return [{"top": [], "bottom": []} for _ in read]
    unit = read / read.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosine = unit.to(rows) @ rows.T
    k = min(POLES, len(texts))
    high, low = cosine.topk(k), (-cosine).topk(k)

    def named(ids: list[int], values: list[float]) -> list[dict[str, Any]]:
        return [{"text": texts[i], "value": value} for i, value in zip(ids, values, strict=True)]

    return [
        {
            "top": named(high.indices[row].tolist(), high.values[row].tolist()),
            "bottom": named(low.indices[row].tolist(), (-low.values[row]).tolist()),
        }
        for row in range(len(read))
    ]
