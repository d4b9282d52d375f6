"""The terms of a direct attribution, one after the other, and the report that they make."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.methods._lib.direct.effects import DirectEffects
from residscope.methods._lib.direct.report import DirectAttribution
from residscope.model.prompts import Batch
from residscope.results import Result

MOST_FEATURES = 1000
BESIDE = ("other features", "bias", "error")


def terms_of(effects: DirectEffects) -> dict[str, Float[Tensor, "*term batch pos"]]:
    """What an attribution consists of, by the report's names, in one order."""
    found: dict[str, Tensor | None] = {
        "components": torch.stack([*effects.components.values()]),
        "heads": effects.heads,
        "attn_bias": effects.attn_bias,
        "sources": effects.sources,
        "value_bias": effects.value_bias,
        "neurons": torch.stack([*effects.neurons.values()]) if effects.neurons else None,
        "experts": effects.experts,
        "mlp_bias": torch.stack([*effects.mlp_bias.values()]) if effects.mlp_bias else None,
    }
    if (own := effects.features) is not None:
        found |= {"features": own.features, "beside": torch.stack([own.bias, own.error]), "decomposed": own.whole}
    return {name: part for name, part in found.items() if part is not None} | {"metric": effects.metric}


def report(
    model: Model,
    batch: Batch,
    effects: DirectEffects,
    values: Float[Tensor, "row term pos"],
    where: Any,
    label: str,
    about: Mapping[str, Any],
) -> DirectAttribution:
    """Terms in the order of `terms_of` as results. effects: of some of the rows; values: of all."""
    along: dict[str, str] = {}
    coords: dict[str, Any] = {}
    if where == "each" and len(batch) == 1:
        texts = model.token_texts(batch.ids[0, : batch.lengths[0]].tolist())
        coords, along = {"token": texts[-values.shape[-1] :]}, {"token": "pos"}
    shapes = {name: part.shape[:-2] for name, part in terms_of(effects).items()}
    split = torch.split(values, [prod(shape) for shape in shapes.values()], 1)
    parts = dict(zip(shapes, split, strict=True))

    def result(name: str, title: str, dims: tuple[str, ...] = (), **own: Any) -> Result | None:
        """Terms [row, term, pos] over the dimensions that the terms are of, then pos and prompt where they are several."""
        if name not in parts:
            return None
        terms = parts[name]
        table = terms.movedim(0, -1).reshape(*shapes[name], *terms.shape[-1:], len(terms))
        dims = (*dims, "pos", "prompt")
        if where != "each":
            table, dims = table.squeeze(-2), (*dims[:-2], "prompt")
        if len(terms) == 1:
            table, dims = table.squeeze(-1), dims[:-1]
        onto = along | ({"source_token": "source"} if "source_token" in own else {})
        return Result(table, dims, {**coords, **own}, onto, name=title, unit="logits", provenance=about)

    title = f"direct effect on the {label}"
    of_source = {"source_token": model.token_texts(batch.ids[0].tolist())} if len(batch) == 1 else {}
    chosen: tuple[int, ...] = ()
    if "features" in parts:
        chosen = _strongest(parts["features"])
        kept = parts["features"][:, list(chosen)]
        others = (
            parts["features"].index_fill(1, torch.tensor(chosen, device=kept.device).long(), 0).sum(1, keepdim=True)
        )
        parts |= {"features": kept, "beside": torch.cat([others, parts["beside"]], 1)}
        shapes |= {"features": torch.Size([len(chosen)]), "beside": torch.Size([len(BESIDE)])}
    components, metric = (
        result("components", title, ("component",), component=[*effects.components]),
        result("metric", label),
    )
    assert components is not None
    assert metric is not None
    return DirectAttribution(
        components=components,
        metric=metric,
        heads=result("heads", title, ("layer", "head")),
        attn_bias=result("attn_bias", "direct effect of the biases of attention", ("layer",)),
        neurons=result("neurons", title, ("layer", "neuron")),
        mlp_bias=result("mlp_bias", "direct effect of the biases of MLPs", ("layer",)),
        sources=result("sources", title, ("layer", "head", "source"), **of_source),
        value_bias=result("value_bias", "direct effect of the values' biases", ("layer", "head")),
        experts=result("experts", title, ("layer", "expert")),
        features=result("features", title, ("feature",), feature=chosen),
        beside_features=result("beside", "direct effect beside the features", ("part",), part=BESIDE),
        decomposed=result("decomposed", "direct effect of what the dictionary decomposes"),
        provenance=about,
    )


def _strongest(features: Float[Tensor, "row feature pos"]) -> tuple[int, ...]:
    """The features that have an effect anywhere, by their number; of very many those with the largest."""
    size = features.abs().amax((0, 2))
    largest = size.topk(min(MOST_FEATURES, len(size))).indices
    return tuple(sorted(largest[size[largest] > 0].tolist()))
