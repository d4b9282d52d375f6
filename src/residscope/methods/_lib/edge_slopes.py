"""How fast a metric changes with what each receiver alone reads, and what each sender writes more in another run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.branches import stream_of
from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from residscope.engine.protocols import At, Edit, Readout
from residscope.engine.recording import Recording
from residscope.engine.slopes import Marked, graphed, slopes
from residscope.methods._lib.edges import LOGITS, Edges, Receiver
from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable

Slopes = Iterator[tuple[list[int], Float[Tensor, "receiver prompt pos d_model"]]]


@dataclass(frozen=True, eq=False)
class Moved(Edit):
    """The embedding of each row of a pass with something added: what depends on it still does."""

    change: Float[Tensor, "row pos d_model"]

    def places(self, table: SiteTable) -> list[Site]:
        return [Site("embed")]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value + self.change.narrow(1, at.offset, value.shape[1]).to(value)


def writes(
    edges: Edges, here: Batch, there: Batch, background: Sequence[Edit]
) -> Float[Tensor, "sender prompt pos d_model"]:
    """w_s' - w_s: what each sender writes to the stream in the other run, less what it writes in this one.

    A head's write behind a norm of attention's output is that norm's output with the head's other value, less its output.
    """
    model = edges.model
    sites = {Site("result", s.site.layer) if s.head is not None else s.site for s in edges.senders}
    posted = "attn_post_scale" not in model.sites.absent
    layers = sorted({site.layer for site in sites if site.name == "result" and site.layer is not None})
    raw = [Site(name, layer) for layer in layers for name in ("attn_raw", "attn_post_scale") if posted]
    this = model.run(here, [*map(str, [*sites, *raw])], edits=background)
    other = model.run(there, [*map(str, sites)], edits=background)
    held = {site for edit in this.edits for site in edit.places(model.sites)}
    changes = []
    for sender in edges.senders:
        if sender.head is None:
            changes.append(other[sender.site] - this[sender.site])
            continue
        site = Site("result", sender.site.layer)
        change = (other[site] - this[site])[:, :, sender.head]
        changes.append(_behind(model, site.layer, change, this, held) * model.layout.factors.residual)
    return torch.stack(changes)


def _behind(model: Model, layer: int | None, change: Tensor, this: Recording, held: set[Site]) -> Tensor:
    """A head's change as the stream gets it: behind the norm of attention's output, where there is one."""
    assert layer is not None
    norm = model.layout.blocks[layer].attn_post_norm
    if norm is None:
        return change
    raw, scale = this["attn_raw", layer], this["attn_post_scale", layer]
    new = scale if Site("attn_post_scale", layer) in held else norm.sigma(raw + change)
    return norm.over(raw + change, new) - norm.over(raw, scale)


def slopes_into(edges: Edges, batch: Batch, metric: Readout, ended: Sequence[Edit], tell: Callable[[], None]) -> Slopes:
    """dm / d(what a receiver alone reads of the stream), group by group of receivers: one whole backward pass, then each layer's.

    G_r = dm / d r where the receivers are heads' outputs and MLPs' inputs, and for what is in front of them, in the same layer,

        dm / dx_r = (d r / d x)^T G_r        x the stream, as r reads it: through the norm and by its queries, keys or values
    """
    firsts = [edges.receivers[group[0]] for group in edges.groups]
    sites = dict.fromkeys(r.site for r in firsts if r.site != LOGITS)
    end = Site("resid_post", edges.model.n_layers - 1)
    record, slope = gradients(edges.model, batch, metric, [*sites, end], edits=ended)
    tell()
    again = _Again(record, firsts, slope)
    for group, receiver in zip(edges.groups, firsts, strict=True):
        yield group, slope[end][None] if receiver.site == LOGITS else again.into(receiver)
        if receiver.site != LOGITS:
            tell()


class _Again:
    """A run again with a graph for each layer apart, from the stream that its receivers read to what they give."""

    def __init__(self, record: Recording, receivers: Sequence[Receiver], slope: Mapping[Site, Tensor]) -> None:
        self.slope, self.table = slope, record.model.sites
        sites = dict.fromkeys(r.site for r in receivers if r.site != LOGITS)
        apart = dict.fromkeys(r.site.layer for r in receivers if len(r.reads) == 1)
        self.stream = Marked(tuple(dict.fromkeys(stream_of(site, self.table) for site in sites)), cut=True)
        self.inner = Marked(tuple(Site(name, layer) for layer in apart for name in ("q", "k", "v")))
        marks: list[Edit] = [mark for mark in (self.stream, self.inner) if mark.sites]
        self.values = graphed(record, sites, marks) if sites else {}
        self.by: dict[Site, Tensor] = {}  # of the layer under way: d (z . G) / d its queries, keys and values

    def into(self, receiver: Receiver) -> Float[Tensor, "receiver prompt pos d_model"]:
        site = receiver.site
        value, leaf = self.values[site], self.stream.after[stream_of(site, self.table)]
        weighed = value * self.slope[site]
        if receiver.head is None:
            return _back(weighed.sum()[None], [leaf])[0]
        heads = weighed.sum((0, 1, 3))
        if len(receiver.reads) > 1:
            return _back(heads, [leaf])[0]
        (at,) = receiver.ends
        if at not in self.by:
            inner = [Site(name, site.layer) for name in ("q", "k", "v")]
            self.by = dict(zip(inner, _back(heads, [self.inner.after[x] for x in inner]), strict=True))
        return _back((self.by[at] * self.inner.before[at]).flatten(1).sum(1), [leaf])[0]


def _back(numbers: Float[Tensor, " n"], leaves: Sequence[Tensor]) -> list[Float[Tensor, "n ..."]]:
    """d number / d leaf of each; zero where the run's edits leave nothing that depends on it."""
    if not numbers.requires_grad:
        return [leaf.new_zeros(len(numbers), *leaf.shape) for leaf in leaves]
    return [torch.cat(parts) for parts in zip(*(found for _, found in slopes(numbers, leaves)), strict=True)]
