"""How fast a metric changes with what each receiver alone reads, and what each sender writes more in another run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

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
    """The embedding with something added: what depends on it still does."""

    change: Float[Tensor, "prompt pos d_model"]

    def places(self, table: SiteTable) -> list[Site]:
        return [Site("embed")]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value + at.mine(self.change).narrow(1, at.offset, value.shape[1]).to(value)


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
    model, table = edges.model, edges.model.sites
    groups: dict[int | None, list[list[int]]] = {}
    for group in edges.groups:
        groups.setdefault(edges.receivers[group[0]].site.layer, []).append(group)
    layers = [layer for layer in groups if layer is not None]
    end = Site("resid_post", model.n_layers - 1)
    ends = {edges.receivers[group[0]].site for group in edges.groups} - {LOGITS}
    record, slope = gradients(
        model, batch, metric, [*ends, *(Site("resid_pre", layer) for layer in layers), end], edits=ended
    )
    tell()
    for layer, of_layer in groups.items():
        if layer is None:
            yield of_layer[0], slope[end][None]
            continue
        yield from _Layer(record, layer, slope, "resid_mid" not in table.absent).into(edges, of_layer)
        tell()


class _Layer:
    """One layer again, with a graph: its slopes from heads' outputs and the MLP's input back to the stream before them."""

    def __init__(self, record: Recording, layer: int, slope: dict[Site, Tensor], middle: bool) -> None:
        self.record, self.layer, self.slope = record, layer, slope
        self.middle = "resid_mid" if middle else "resid_pre"

    def site(self, name: str) -> Site:
        return Site(name, self.layer)

    def into(self, edges: Edges, groups: Sequence[Sequence[int]]) -> Slopes:
        receivers = [edges.receivers[group[0]] for group in groups]
        inner = [self.site(name) for name in ("q", "k", "v")]
        self.inner = Marked(tuple(inner) if any(len(r.reads) == 1 for r in receivers) else ())
        self.stream = Marked(tuple({self.site("resid_pre"), self.site(self.middle)}))
        marks: list[Edit] = [mark for mark in (self.stream, self.inner) if mark.sites]
        self.values = graphed(self.record, {r.site for r in receivers}, marks, start=self.layer)
        for group, receiver in zip(groups, receivers, strict=True):
            yield [*group], self._of(receiver)

    def _of(self, receiver: Receiver) -> Float[Tensor, "receiver prompt pos d_model"]:
        value, G = self.values[receiver.site], self.slope[receiver.site]
        if receiver.head is None:
            return self._back((value * G).sum()[None], self.stream.after[self.site(self.middle)])
        heads = (value * G).sum((0, 1, 3))
        pre = self.stream.after[self.site("resid_pre")]
        if len(receiver.reads) > 1:
            return self._back(heads, pre)
        (at,) = receiver.ends
        by = self._back(heads, self.inner.after[at])
        return self._back((by * self.inner.before[at]).flatten(1).sum(1), pre)

    def _back(self, numbers: Float[Tensor, " n"], leaf: Tensor) -> Float[Tensor, "n ..."]:
        """d number / d leaf of each; zero where the run's edits leave nothing that depends on it."""
        if not numbers.requires_grad:
            return leaf.new_zeros(len(numbers), *leaf.shape)
        return torch.cat([*chain.from_iterable(found for _, found in slopes(numbers, [leaf]))])
