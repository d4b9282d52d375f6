"""What a map is read from: one position of a run at every site that effects are read from, and its patterns made small."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from residscope.engine.recording import Recording
from residscope.engine.windows import Window
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
    stream, kept, thumbs, looks = run.sites, dict[Site, Tensor](), list[Tensor](), list[Tensor]()
    for sites, patterns in groups(run):
        going_on()
        part = run.holding(stream)
        found = part.several([*sites, *patterns])
        kept |= {site: found[site][:, at:].clone() for site in map(model.sites.canonical, sites)}
        thumbs += [small(found[site][0]) for site in patterns]
        looks += [found[site][0, :, at].float().cpu() for site in patterns]
    row = held_as(run.holding(()), kept, window=Window(run.holding(()), 0, None, at))
    return Mapped(row, *(torch.stack(found) if found else None for found in (thumbs, looks)))


def held_as(run: Recording, values: Mapping[Site, Tensor], *, window: Window | None) -> Recording:
    """The same run with these values."""
    return Recording(
        run.model, run.batch, {**values}, edits=run.edits, window=window, unedited=run.unedited, weights=run.version
    )


def groups(run: Recording) -> Iterator[tuple[list[Site], list[Site]]]:
    """The sites that effects are read from and the patterns, of as many layers at a time as fit."""
    model, (length,) = run.model, run.lengths
    names = [*direct_sites(model, edits=run.edits), *(f"resid_pre.{layer}" for layer in range(model.n_layers))]
    sites = [Site.parse(name) for name in dict.fromkeys(names)]
    patterned = "pattern" in model.sites.names
    width = sum(model.sites.width(site) or 1 for site in sites) // model.n_layers + (model.n_heads * length * 2)
    each = max(1, GROUP_BYTES // (width * length * model.dtype.itemsize))
    last = model.n_layers - 1
    layer_of = {site: min(max(rank(site, model.n_layers), 0), last) for site in sites}
    layer_of |= {site: site.layer for site in sites if site.layer is not None}
    for first in range(0, model.n_layers, each):
        here = range(first, min(first + each, model.n_layers))
        yield (
            [site for site in sites if layer_of[site] in here],
            [Site("pattern", layer) for layer in here if patterned],
        )


def small(pattern: Float[Tensor, "head query key"]) -> UInt8[Tensor, "head row col"]:
    """255 A, the largest of each block of tokens, rounded up, so that a cell that stands alone stays."""
    length = pattern.shape[-1]
    block = ceil(length / SMALL)
    pooled = max_pool2d(pattern.float()[None], block, ceil_mode=True)[0] if block > 1 else pattern.float()
    return (pooled * 255).ceil().clamp(0, 255).to(torch.uint8).cpu()
