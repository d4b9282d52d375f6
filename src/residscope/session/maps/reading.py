"""What a map is read from: one position of a run at every site that effects are read from, and its patterns made small."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.methods._lib.by_head import wide
from residscope.methods._lib.direct import direct_sites
from residscope.model.sites import Site, rank

SMALL = 24  # cells along a thumbnail, at most
GROUP_BYTES = 1 << 28  # what is read at once, of so many layers: a long prompt's patterns are large


@dataclass(frozen=True, eq=False)
class Mapped:
    """What is kept of a run: from one position on, the sites that effects are read from; where heads look from there, and their
    patterns made small."""

    recording: Recording
    thumbs: UInt8[Tensor, "layer head row col"] | None
    looks: Float[Tensor, "layer head key"] | None

    @property
    def bytes(self) -> int:
        held = sum(x.untyped_storage().nbytes() for x in self.recording.unedited.values())
        patterns = sum(0 if x is None else x.nbytes for x in (self.thumbs, self.looks))
        return self.recording.nbytes + held + patterns


def streamed(run: Recording, rows: Float[Tensor, "row pos d_model"]) -> Recording:
    """A run by its stream, which is held elsewhere and not copied: every other site is recomputed from it.

    rows: what each block reads, and what the last one leaves.
    """
    return held_as(run, {Site("resid_pre", n): rows[n][None] for n in range(run.model.n_layers)}, window=None)


def read(run: Recording, at: int, going_on: Callable[[], None] = lambda: None) -> Mapped:
    """The map of a run that is held as its stream, some layers at a time; `going_on` is asked between them.

    Of the positions before `at` nothing is kept.
    """
    model = run.model
    stream, kept, thumbs, looks = run.sites, dict[Site, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    for sites, patterns in groups(run):
        going_on()
        part = run.holding(stream)
        found = part.several([*sites, *patterns])
        kept |= {site: found[site][:, at:].clone() for site in map(model.sites.canonical, sites)}
        thumbs |= {site.layer or 0: small(found[site][0]) for site in patterns}
        looks |= {site.layer or 0: found[site][0, :, at].float().cpu() for site in patterns}
    row = held_as(run.holding(()), kept, window=Window(run.holding(()), 0, None, at))
    return Mapped(row, *(_by_layer(found, model) for found in (thumbs, looks)))


def _by_layer(found: Mapping[int, Tensor], model: Model) -> Tensor | None:
    """A tensor of each layer by head, empty where it has no such head; None where no layer has one."""
    if not found:
        return None
    every = {layer: wide(value, model.n_heads, 0, 0) for layer, value in found.items()}
    empty = torch.zeros_like(next(iter(every.values())))
    return torch.stack([every.get(layer, empty) for layer in range(model.n_layers)])


def without_heads(model: Model) -> str | None:
    """Why there are no patterns, or in which layers there are none; None where every layer has its own."""
    table = model.sites
    if reason := table.absent.get("pattern"):
        return reason
    lacking = [layer for layer in range(model.n_layers) if not table.has("pattern", layer)]
    if not lacking:
        return None
    where = ", ".join(map(str, lacking))
    return f"layer{'s' if len(lacking) > 1 else ''} {where} (no pattern is seen there: {table.absent[f'pattern.{lacking[0]}']})"


def held_as(run: Recording, values: Mapping[Site, Tensor], *, window: Window | None) -> Recording:
    """The same run with these values."""
    return Recording(
        run.model, run.batch, {**values}, edits=run.edits, window=window, unedited=run.unedited, weights=run.version
    )


def groups(run: Recording) -> Iterator[tuple[list[Site], list[Site]]]:
    """The sites that effects are read from and the patterns, of as many layers at a time as fit."""
    model, (length,) = run.model, run.lengths
    heads = "z" in model.sites.names
    names = [
        *direct_sites(model, heads=heads, edits=run.edits),
        *(f"resid_pre.{layer}" for layer in range(model.n_layers)),
    ]
    sites = [Site.parse(name) for name in dict.fromkeys(names)]
    width = sum(model.sites.width(site) or 1 for site in sites) // model.n_layers + (model.n_heads * length * 2)
    each = max(1, GROUP_BYTES // (width * length * model.dtype.itemsize))
    last = model.n_layers - 1
    layer_of = {site: min(max(rank(site, model.n_layers), 0), last) for site in sites}
    layer_of |= {site: site.layer for site in sites if site.layer is not None}
    for first in range(0, model.n_layers, each):
        here = range(first, min(first + each, model.n_layers))
        yield (
            [site for site in sites if layer_of[site] in here],
            [Site("pattern", layer) for layer in here if model.sites.has("pattern", layer)],
        )


def small(pattern: Float[Tensor, "head query key"]) -> UInt8[Tensor, "head row col"]:
    """255 A, the largest of each block of tokens, rounded up, so that a cell that stands alone stays."""
    length = pattern.shape[-1]
    block = ceil(length / SMALL)
    pooled = max_pool2d(pattern.float()[None], block, ceil_mode=True)[0] if block > 1 else pattern.float()
    return (pooled * 255).ceil().clamp(0, 255).to(torch.uint8).cpu()
