"""Direct effects: every part of a run, read as the logits read it, and the check that they sum to the run's own metric."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.engine.protocols import Readout
from residscope.engine.recording import Recording
from residscope.methods._lib.by_head import wide
from residscope.methods._lib.direct.experts import expert_effects
from residscope.methods._lib.direct.features import FeatureEffects, feature_effects
from residscope.methods._lib.direct.reading import SLACK, Reading, Where, require
from residscope.methods._lib.direct.sites import direct_sites
from residscope.methods._lib.direct.sources import source_effects
from residscope.model.sites import Site


@dataclass(frozen=True)
class DirectEffects:
    """A metric of the logits as a sum, in logits, at some positions of each prompt.

        metric = embed + pos_embed + sum_l attn[l] + sum_l mlp[l] + edits + norm_bias + unembed_bias
        attn[l] = sum_h heads[l, h] + attn_bias[l],    mlp[l] = sum_i neurons[l][i] + mlp_bias[l]

    norm_bias: of the final norm; unembed_bias: of the unembedding. attn_bias, mlp_bias: what attention writes beside its
    heads and the MLP beside its neurons, their outputs' biases and their post-norms' (and what an edit of `attn_out` or
    `mlp_out` puts there). sources, value_bias: heads[l, h] = sum_k sources[l, h, k] + value_bias[l, h], by the position that
    is attended to; the bias of the values is moved whatever the source (and what an edit of `z` or `result` puts there is
    with it). experts: mlp[l] = sum_e experts[l, e] + mlp_bias[l], each as its router weights it, 0 where it is not chosen.
    features: of a dictionary, what stands at its write site. edits: what edits of the stream itself, and of `final_norm`,
    add, by site. None: the model has no such part, or it was not asked for. neurons, mlp_bias: by the layers asked for.
    error: how far the sum is from the metric, at most.
    """

    metric: Float[Tensor, "batch pos"]
    embed: Float[Tensor, "batch pos"]
    pos_embed: Float[Tensor, "batch pos"] | None
    attn: Float[Tensor, "layer batch pos"]
    mlp: Float[Tensor, "layer batch pos"] | None
    edits: dict[str, Float[Tensor, "batch pos"]]
    norm_bias: Float[Tensor, "batch pos"] | None
    unembed_bias: Float[Tensor, "batch pos"] | None
    heads: Float[Tensor, "layer head batch pos"] | None
    attn_bias: Float[Tensor, "layer batch pos"] | None
    neurons: dict[int, Float[Tensor, "neuron batch pos"]]
    mlp_bias: dict[int, Float[Tensor, "batch pos"]]
    experts: Float[Tensor, "layer expert batch pos"] | None
    features: FeatureEffects | None
    sources: Float[Tensor, "layer head source batch pos"] | None
    value_bias: Float[Tensor, "layer head batch pos"] | None
    error: float

    @property
    def components(self) -> dict[str, Float[Tensor, "batch pos"]]:
        """The terms of the sum by the sites that write them, in the order in which they are written."""
        terms = {"embed": self.embed} | ({} if self.pos_embed is None else {"pos_embed": self.pos_embed})
        for layer, attn in enumerate(self.attn):
            terms[f"attn_out.{layer}"] = attn
            if self.mlp is not None:
                terms[f"mlp_out.{layer}"] = self.mlp[layer]
        terms |= {f"edits of {site}": effect for site, effect in self.edits.items()}
        terms |= {} if self.norm_bias is None else {"final norm's bias": self.norm_bias}
        return terms | ({} if self.unembed_bias is None else {"unembedding's bias": self.unembed_bias})


def direct_effects(
    recording: Recording,
    metric: Readout,
    pos: Where = -1,
    *,
    heads: bool = True,
    neurons: Iterable[int] = (),
    sources: bool = False,
    experts: bool = False,
    features: Dictionary | None = None,
) -> DirectEffects:
    """What each part of a run adds to a metric that is linear in its logits: its write, read as the final norm reads it.

        effect = write . (g * W_U w - mean) / sigma

    w are the metric's weights of the tokens, g the final norm's gain, sigma the divisor that the norm had in this very run; the
    mean is taken off by LayerNorm alone. The logits' scale is in W_U; a cap is not linear, and the metric of a model that has
    one is of the logits before it. Heads are read through W_O, neurons through W_out, and either through its post-norm with its
    own divisor (Elhage et al., 2021). pos: one position (negative: from each row's own end), one for every row, or "each".
    neurons: the layers whose neurons are read too. sources: whether each head's effect is split over what it attends to.
    experts: whether the MLPs are read by expert. features: a dictionary whose features are read, at its own write site.

    Raises:
        NotLinear: another metric than a logit or a difference of logits. NotAdditive: the parts do not sum to the run's own
        logits. UnalignedPrompts: "each", or sources, of rows of unequal length. BadEdit: the logits themselves are edited.
        QuantisedModel, AbsentSite (neurons of experts, experts of a dense MLP), DirectionError (a dictionary that writes
        nothing into the stream), UnknownPosition, NotRecorded, WeightsChanged.
    """
    layers = [*neurons]
    model, edits = recording.model, recording.edits
    with torch.no_grad():
        recording.several(
            direct_sites(
                model, heads=heads, neurons=layers, sources=sources, experts=experts, features=features, edits=edits
            )
        )
        reading = Reading(recording, metric, pos)
        names, n = model.sites.names, model.n_layers
        parts: dict[str, Any] = {"metric": reading.metric, "embed": reading.effect(reading.at("embed"))}
        parts["pos_embed"] = reading.effect(reading.at("pos_embed")) if "pos_embed" in names else None
        for name, site in (("attn", "attn_out"), ("mlp", "mlp_out")):
            writes = [_written(reading, f"{site}.{layer}") for layer in range(n)] if site in names else []
            parts[name] = torch.stack(writes) if writes else None
        of_norm = model.layout.final_norm.bias
        parts["norm_bias"] = None if of_norm is None else reading.spread(reading.column @ of_norm.to(reading.column))
        parts["unembed_bias"] = None if reading.bias is None else reading.spread(reading.bias)
        parts["edits"] = _edits(reading)
        allowed = reading.allowed()
        parts["heads"], parts["attn_bias"] = _heads(reading, parts["attn"], allowed) if heads else (None, None)
        split = sources and heads
        parts["sources"], parts["value_bias"] = (
            source_effects(reading, parts["heads"], allowed) if split else (None, None)
        )
        found = {layer: _neurons(reading, layer, parts["mlp"], allowed) for layer in layers}
        parts["neurons"] = {layer: own for layer, (own, _) in found.items()}
        parts["mlp_bias"] = {layer: rest for layer, (_, rest) in found.items()}
        parts["experts"] = None
        if experts:
            parts["experts"], beside = expert_effects(reading, parts["mlp"], allowed)
            parts["mlp_bias"] = dict(enumerate(beside))
        parts["features"] = None
        summed = DirectEffects(**parts, error=0.0).components
        parts["features"] = None if features is None else feature_effects(reading, features, summed, allowed)
        terms = torch.stack([*summed.values()])
        failed = "the parts do not sum to the metric of the run's own logits"
        return DirectEffects(**parts, error=require(failed, terms.sum(0), reading.metric, allowed))


def _written(reading: Reading, site: str) -> Float[Tensor, "batch pos"]:
    """The effect of what is written at a site; none where the layer has no such branch."""
    there = reading.model.sites.has(*_named(site))
    return reading.effect(reading.at(site)) if there else torch.zeros_like(reading.metric)


def _named(site: str) -> tuple[str, int]:
    name, layer = site.split(".")
    return name, int(layer)


def _heads(
    reading: Reading, attn: Float[Tensor, "layer batch pos"], allowed: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "layer head batch pos"], Float[Tensor, "layer batch pos"]]:
    """Each head's effect, and what attention writes beside its heads: all of it in a layer whose heads are not seen.

    A head that a layer lacks has none.
    """
    heads, biases, table = [], [], reading.model.sites
    table.expand("z")
    for layer, parts in enumerate(reading.layout.blocks):
        if not table.has("z", layer):
            heads.append(attn.new_zeros(reading.model.n_heads, *attn.shape[1:]))
            biases.append(attn[layer])
            continue
        post = parts.attn_proj, parts.attn_post_norm, f"attn_post_scale.{layer}"
        if Site("result", layer) in reading.changed:
            read, divisor, bias = reading.onward(*post)
            own = torch.einsum("bphm,bm->hbp", reading.at(f"result.{layer}"), read) / divisor
        else:
            read, divisor, bias = reading.through(*post)
            by_head = read.reshape(len(read), reading.model.heads_at(layer).n_heads, -1)
            own = torch.einsum("bphk,bhk->hbp", reading.at(f"z.{layer}"), by_head) / divisor
        heads.append(wide(own, reading.model.n_heads, 0, 0.0))
        if parts.attn_beside is not None:  # what another module adds to attention's write
            biases.append(attn[layer] - own.sum(0))
            continue
        biases.append(_beside(reading, f"attn_{{}}.{layer}", "heads", own, attn[layer], bias, allowed))
    return torch.stack(heads), torch.stack(biases)


def _neurons(
    reading: Reading, layer: int, mlp: Float[Tensor, "layer batch pos"], allowed: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "neuron batch pos"], Float[Tensor, "batch pos"]]:
    """Each neuron's effect, and what the MLP writes beside them."""
    parts = reading.layout.blocks[layer]
    read, divisor, bias = reading.through(parts.mlp_down, parts.mlp_post_norm, f"mlp_post_scale.{layer}")
    own = (reading.at(f"mlp_post.{layer}") * read[:, None] / divisor[..., None]).movedim(-1, 0)
    return own, _beside(reading, f"mlp_{{}}.{layer}", "neurons", own, mlp[layer], bias, allowed)


def _beside(
    reading: Reading,
    site: str,
    what: str,
    own: Float[Tensor, "part batch pos"],
    whole: Float[Tensor, "batch pos"],
    bias: Float[Tensor, "batch pos"],
    allowed: Float[Tensor, "batch pos"],
) -> Float[Tensor, "batch pos"]:
    """What a branch writes beside its parts: the biases, or, where its output is edited, whatever is left."""
    rest = whole - own.sum(0)
    if {Site.parse(site.format(name)) for name in ("out", "raw")} & reading.changed:
        return rest
    slack = allowed + own.square().sum(0).sqrt() * reading.eps * SLACK
    require(f"the {what} of {site.format('out')} do not sum to what it adds", rest, bias, slack)
    return bias


def _edits(reading: Reading) -> dict[str, Float[Tensor, "batch pos"]]:
    """What edits of the stream added to it, and what those of the final norm's output did to that."""
    n, names, at, changed = reading.model.n_layers, reading.model.sites.names, reading.at, reading.changed
    found: dict[str, Tensor] = {}
    if Site("resid_pre", 0) in changed:
        begun = [at(name) for name in ("embed", "pos_embed") if name in names]
        found["resid_pre.0"] = at("resid_pre.0") - sum(begun)
    for layer in range(n):
        middle = Site("resid_mid", layer)
        after = Site("resid_pre", layer + 1) if layer + 1 < n else Site("resid_post", layer)
        if not {middle, after} & changed:
            continue
        stream = at(f"resid_pre.{layer}") + at(f"attn_out.{layer}")
        if middle in changed:
            found[str(middle)], stream = at(middle) - stream, at(middle)
        if after in changed:
            found[str(after)] = at(after) - stream - (at(f"mlp_out.{layer}") if "mlp_out" in names else 0)
    effects = {site: reading.effect(change) for site, change in found.items()}
    if Site("final_norm") in changed:
        usual = reading.layout.final_norm.over(at(f"resid_post.{n - 1}"), reading.sigma[..., None])
        moved = at("final_norm") - usual.to(reading.column)
        effects["final_norm"] = torch.einsum("bpm,bm->bp", moved, reading.column)
    return effects
