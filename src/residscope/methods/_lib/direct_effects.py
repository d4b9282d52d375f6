"""Direct effects: what each part of a run adds to a metric of the logits through the final norm alone, and that it sums up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.layout import BlockParts, weight_in_out
from residscope.engine.model import Model
from residscope.engine.naming import label_of
from residscope.engine.parameters import in_memory
from residscope.engine.protocols import Edit, LogitReadout, Readout, overlays_of
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, NotAdditive, NotLinear, UnalignedPrompts, WeightsChanged
from residscope.model.sites import Site

Where = int | str | Sequence[int]
SLACK = 8.0  # how many roundings of the stream, of one standard deviation about, the sum may be off by
CARRIES = ("resid_pre", "resid_mid", "resid_post")


@dataclass(frozen=True)
class DirectEffects:
    """A metric of the logits as a sum, in logits, at some positions of each prompt.

        metric = embed + pos_embed + sum_l attn[l] + sum_l mlp[l] + edits + norm_bias + unembed_bias
        attn[l] = sum_h heads[l, h] + attn_bias[l]

    norm_bias: of the final norm; unembed_bias: of the unembedding. attn_bias: what attention writes beside its heads, its
    output's bias and its post-norm's (and what an edit of `attn_out` puts there). edits: what edits of the stream itself, and of
    `final_norm`, add, by site. None: the model has no such part. error: how far the sum is from the metric, at most.
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


def direct_sites(model: Model, *, heads: bool = True, edits: Sequence[Edit] = ()) -> list[str]:
    """The sites that direct effects are read from: captured in the run itself, they cost no second pass."""
    names = ["embed", "pos_embed", "attn_out", "mlp_out", *(["z", "attn_post_scale"] if heads else [])]
    sites = [site for name in names if name in model.sites.names for site in model.sites.expand(name)]
    sites += _of_results(model, edits) if heads else []
    changed = _changed(model, edits)
    if any(site.name in CARRIES for site in changed):
        sites += [*model.sites.expand("resid_pre"), *(site for site in changed if site.name in CARRIES)]
    last = [Site("resid_post", model.n_layers - 1)] if changed else []
    return [*dict.fromkeys(map(str, [*sites, *last, Site("final_scale"), Site("final_norm")]))]


def direct_effects(recording: Recording, metric: Readout, pos: Where = -1, *, heads: bool = True) -> DirectEffects:
    """What each part of a run adds to a metric that is linear in its logits: its write, read as the final norm reads it.

        effect = write . (g * W_U w - mean) / sigma

    w are the metric's weights of the tokens, g the final norm's gain, sigma the divisor that the norm had in this very run; the
    mean is taken off by LayerNorm alone. The logits' scale is in W_U; a cap is not linear, and the metric of a model that has
    one is of the logits before it. Heads are read through W_O, and attention's post-norm with its own divisor (Elhage et al.,
    2021). pos: one position (negative: from each row's own end), one for every row, or "each".

    Raises:
        NotLinear: another metric than a logit or a difference of logits. NotAdditive: the parts do not sum to the run's own
        logits. UnalignedPrompts: "each" of rows of unequal length. BadEdit: the logits themselves are edited. QuantisedModel.
        UnknownPosition, NotRecorded, WeightsChanged.
    """
    with torch.no_grad():
        return _Reading(recording, metric, pos).effects(heads)


class _Reading:
    """One metric of one run, ready to read writes with."""

    def __init__(self, recording: Recording, metric: Readout, pos: Where) -> None:
        self.recording, self.model, self.layout = recording, recording.model, recording.model.layout
        if recording.stale:
            raise WeightsChanged(
                "the model has changed since this run",
                allowed="a run of the model as it is",
                fix="run the prompt again",
            )
        self.changed = _changed(self.model, recording.edits)
        self.index = _index(recording, pos)
        self.rows = torch.arange(len(self.index))[:, None]
        ids, weights = _weights(metric, recording)
        self.dtype = weights.dtype
        self.column, self.bias = self._columns(ids, weights)  # what the final norm's output is read by
        norm = self.layout.final_norm
        self.read = norm.center(norm.gain.to(self.column) * self.column)
        self.sigma = self.at("final_scale")[..., 0]
        self.metric, self.rounding = self._metric(ids, weights)
        self.size = torch.zeros_like(self.at("final_norm"))  # of all writes together, without their signs

    def at(self, site: str | Site) -> Float[Tensor, "batch pos ..."]:
        value = self.recording[site]
        return value[self.rows.to(value.device), self.index.to(value.device)].to(self.column)

    def effect(self, write: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        self.size += write.abs()
        return torch.einsum("bpm,bm->bp", write, self.read) / self.sigma

    def effects(self, with_heads: bool) -> DirectEffects:
        names, n = self.model.sites.names, self.model.n_layers
        self.recording.several(direct_sites(self.model, heads=with_heads, edits=self.recording.edits))
        embed = self.effect(self.at("embed"))
        pos_embed = self.effect(self.at("pos_embed")) if "pos_embed" in names else None
        attn = torch.stack([self.effect(self.at(f"attn_out.{layer}")) for layer in range(n)])
        mlp = None
        if "mlp_out" in names:
            mlp = torch.stack([self.effect(self.at(f"mlp_out.{layer}")) for layer in range(n)])
        edits = self._edits()
        norm_bias = self.layout.final_norm.bias
        norm_bias = None if norm_bias is None else self._spread(self.column @ norm_bias.to(self.column))
        unembed_bias = None if self.bias is None else self._spread(self.bias)
        layers = [attn.sum(0), None if mlp is None else mlp.sum(0)]
        terms = [embed, pos_embed, *layers, *edits.values(), norm_bias, unembed_bias]
        total = torch.stack([term for term in terms if term is not None]).sum(0)
        allowed = self._allowed()
        error = _require("the parts do not sum to the metric of the run's own logits", total, self.metric, allowed)
        heads = attn_bias = None
        if with_heads:
            heads, attn_bias = self._heads(attn, allowed)
        return DirectEffects(
            self.metric, embed, pos_embed, attn, mlp, edits, norm_bias, unembed_bias, heads, attn_bias, error
        )

    # ── the final norm and the unembedding ──────────────────────────────────────────────────────────────────

    def _columns(
        self, ids: list[int], weights: Float[Tensor, "batch token"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch"] | None]:
        self.W = weight_in_out(self.layout.unembed)[:, ids].to(weights) * self.layout.factors.logits
        for laid in overlays_of(self.recording.edits, self.layout):
            if laid.module is self.layout.unembed:
                self.W = self.W + (laid.A @ laid.B[:, ids]).to(self.W) * self.layout.factors.logits
        bias = in_memory(self.layout.unembed, "bias")
        self.b = None if bias is None else bias[ids].to(self.W) * self.layout.factors.logits
        return weights @ self.W.T, None if self.b is None else weights @ self.b

    def _metric(
        self, ids: list[int], weights: Float[Tensor, "batch token"]
    ) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """The metric of the run's own logits, and how far rounding may have moved it; before the cap where there is one."""
        normed, cap = self.at("final_norm"), self.layout.factors.logits_cap
        logits = self.recording.logits_of(ids).to(self.W)
        logits = logits[self.rows.to(logits.device), self.index.to(logits.device)]
        size = torch.einsum("bpm,mt,bt->bp", normed.abs().square(), self.W.square(), weights.square()).sqrt()
        rounding = size * self._eps * SLACK
        if cap is not None:
            before = normed @ self.W + (0 if self.b is None else self.b)
            each = (normed.square() @ self.W.square()).sqrt() * self._eps * SLACK + self._eps * cap
            _require("the unembedding does not give the run's own logits", (before / cap).tanh() * cap, logits, each)
            logits = before
        return torch.einsum("bpt,bt->bp", logits, weights), rounding

    @property
    def _eps(self) -> float:
        return float(
            torch.finfo(self.model.dtype).eps if self.model.dtype.itemsize < 4 else torch.finfo(torch.float32).eps
        )

    def _allowed(self) -> Float[Tensor, "batch pos"]:
        """What rounding the stream at each of its 2 n additions may come to, read as the writes are."""
        size = torch.einsum("bpm,bm->bp", self.size.square(), self.read.square()).sqrt() / self.sigma
        return size * self._eps * SLACK * sqrt(2 * self.model.n_layers) + self.rounding

    def _spread(self, value: Float[Tensor, "batch"]) -> Float[Tensor, "batch pos"]:
        """A value of each row, at each of its positions."""
        return value[:, None].expand_as(self.metric).clone()

    # ── heads ───────────────────────────────────────────────────────────────────────────────────────────────

    def _heads(
        self, attn: Float[Tensor, "layer batch pos"], allowed: Float[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "layer head batch pos"], Float[Tensor, "layer batch pos"]]:
        seen = {site.layer for site in _of_results(self.model, self.recording.edits)}
        heads, rest = [], []
        for layer, parts in enumerate(self.layout.blocks):
            read, divisor, bias = self._into(layer, parts)
            if layer in seen:
                own = torch.einsum("bphm,bm->hbp", self.at(f"result.{layer}"), read) / divisor
            else:
                through = (read @ weight_in_out(parts.attn_proj).to(read).T).reshape(len(read), self.model.n_heads, -1)
                own = torch.einsum("bphk,bhk->hbp", self.at(f"z.{layer}"), through) / divisor
            heads.append(own)
            rest.append(attn[layer] - own.sum(0))
            if not {Site("attn_out", layer), Site("attn_raw", layer)} & self.changed:
                _require(f"the heads of layer {layer} do not sum to what attention adds", rest[-1], bias, allowed)
                rest[-1] = bias
        return torch.stack(heads), torch.stack(rest)

    def _into(
        self, layer: int, parts: BlockParts
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """What the projection's output is read by, and over what, so that it is read as added to the stream; and its biases."""
        read, divisor, bias, post = self.read, self.sigma, torch.zeros_like(self.sigma), parts.attn_post_norm
        times = self.layout.factors.residual
        if post is not None:
            if post.bias is not None:
                bias = bias + (read @ post.bias.to(read))[:, None] / self.sigma * times
            read = post.center(post.gain.to(read) * read)
            divisor = divisor * self.at(f"attn_post_scale.{layer}")[..., 0]
        read = read * times
        if (own := in_memory(parts.attn_proj, "bias")) is not None:
            bias = bias + (read @ own.to(read))[:, None] / divisor
        return read, divisor, bias

    # ── edits of the stream ─────────────────────────────────────────────────────────────────────────────────

    def _edits(self) -> dict[str, Float[Tensor, "batch pos"]]:
        """What edits of the stream added to it, and what those of the final norm's output did to that."""
        n, found = self.model.n_layers, dict[str, Tensor]()
        if Site("resid_pre", 0) in self.changed:
            names = [name for name in ("embed", "pos_embed") if name in self.model.sites.names]
            found["resid_pre.0"] = self.at("resid_pre.0") - sum(self.at(name) for name in names)
        for layer in range(n):
            after = Site("resid_pre", layer + 1) if layer + 1 < n else Site("resid_post", layer)
            middle = Site("resid_mid", layer)
            stream = (
                self.at(f"resid_pre.{layer}") + self.at(f"attn_out.{layer}") if {middle, after} & self.changed else None
            )
            if stream is not None and middle in self.changed:
                found[str(middle)], stream = self.at(middle) - stream, self.at(middle)
            if stream is not None and after in self.changed:
                mlp = self.at(f"mlp_out.{layer}") if "mlp_out" in self.model.sites.names else 0
                found[str(after)] = self.at(after) - stream - mlp
        effects = {site: self.effect(change) for site, change in found.items()}
        if Site("final_norm") in self.changed:
            norm = self.layout.final_norm
            usual = norm.over(self.at(f"resid_post.{n - 1}"), self.sigma[..., None]).to(self.column)
            effects["final_norm"] = torch.einsum("bpm,bm->bp", self.at("final_norm") - usual, self.column)
        return effects


def _changed(model: Model, edits: Sequence[Edit]) -> set[Site]:
    """The sites that edits put something else at. Refuses those of the logits, which nothing in the stream answers for.

    A change of a weight is no such edit: what the module writes has it, and is read where it is written.
    """
    here = [edit for edit in edits if not edit.overlays(model.layout)]
    places = set(chain.from_iterable(edit.places(model.sites) for edit in here))
    if Site("logits") in places:
        raise BadEdit(
            "the logits themselves are edited, so the metric is not a sum over the parts of the stream",
            received="an edit of logits",
            allowed="edits of any other site",
            fix="take that edit off",
        )
    return places


def _of_results(model: Model, edits: Sequence[Edit]) -> list[Site]:
    """The layers whose heads write something else than z W_O: those where that is edited, or W_O is."""
    edited = {site.layer for site in _changed(model, edits) if site.name == "result"}
    laid = {id(laid.module) for laid in overlays_of(edits, model.layout)}
    edited |= {layer for layer, parts in enumerate(model.layout.blocks) if id(parts.attn_proj) in laid}
    return [Site("result", layer) for layer in sorted(x for x in edited if x is not None)]


def linear(metric: Readout, model: Model) -> LogitReadout:
    """A metric that is a sum of weights times logits. Raises NotLinear for another."""
    if not (isinstance(metric, LogitReadout) and getattr(metric, "linear", False)):
        raise NotLinear(
            "what each part adds is a share of a sum, and this metric is no sum of logits",
            received=label_of(metric, model),
            allowed="a difference of logits (that of two log-probabilities is the same), or a logit",
            fix='rs.logit_diff(" Mary", " John"), or rs.logit(" Mary")',
            on_page="choose a logit difference",
        )
    return metric


def _weights(metric: Readout, recording: Recording) -> tuple[list[int], Float[Tensor, "batch token"]]:
    """The tokens that a metric reads, and the weight of each one's logit in it, row by row."""
    metric = linear(metric, recording.model)
    model, batch = recording.model, recording.batch
    ids = metric.columns(model, batch)
    tokens = [*(range(model.d_vocab) if ids is None else ids)]
    wide = torch.promote_types(model.dtype, torch.float32)
    with torch.enable_grad():
        logits = torch.zeros(len(batch), len(tokens), dtype=wide, device=model.device, requires_grad=True)
        (weights,) = torch.autograd.grad(metric.of(logits, ids, model, batch).sum(), logits)
    return tokens, weights


def _index(recording: Recording, pos: Any) -> Int[Tensor, "batch pos"]:
    n = len(recording.lengths)
    if isinstance(pos, str):
        if pos != "each" or len({*recording.lengths}) > 1:
            raise UnalignedPrompts(
                "positions of prompts of unequal length do not correspond" if pos == "each" else "no such positions",
                received=f"{pos!r}, lengths {min(recording.lengths)} to {max(recording.lengths)}",
                allowed='a position, one for each prompt, or "each" of prompts of one length',
            )
        return torch.arange(recording.lengths[0] - recording.offset).expand(n, -1)
    each = [pos] * n if isinstance(pos, int) else [*pos]
    return torch.tensor([[recording.index(at, row)] for row, at in enumerate(each)])


def _require(failed: str, got: Tensor, expected: Tensor, allowed: Tensor) -> float:
    """How far they are apart. Raises NotAdditive where that is more than rounding, or no number."""
    apart = (got - expected).abs()
    if not bool((apart <= allowed).all()):
        worst = int((apart - allowed).nan_to_num(torch.inf).argmax())
        raise NotAdditive(
            failed,
            received=f"{float(got.flatten()[worst]):.6g} against {float(expected.flatten()[worst]):.6g} logits",
            allowed=f"a difference of {float(allowed.flatten()[worst]):.2g}, which rounding explains",
            fix="check the model's certificate, and that no hook of your own changes what is written",
        )
    return float(apart.max())
