"""One run as a map: recorded once where its parts are read, and kept while its run is looked at."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from residscope.engine.model import Model
from residscope.engine.preparing import prepare
from residscope.engine.protocols import Edit
from residscope.engine.recording import Recording
from residscope.errors import UnknownLayer
from residscope.methods._lib.direct import direct_effects, direct_sites
from residscope.metrics import logit_diff
from residscope.model.sites import KINDS, Site
from residscope.session.compute import Latest, top_tokens
from residscope.session.intents import find_run
from residscope.session.maps.files import LayerFile, LayerTensors, MapFile, MapTensors, RowsLens
from residscope.session.state import State, top
from residscope.world.values import RunKey

SMALL = 24  # cells along a thumbnail, at most
NEURONS = 8
PATTERN_BYTES = 1 << 28  # patterns held at once: those of a long prompt are read some layers at a time


@dataclass(frozen=True, eq=False)
class Mapped:
    """What is kept of a run: the sites that effects are read from, and its patterns made small."""

    recording: Recording
    thumbs: UInt8[Tensor, "layer head query key"] | None

    @property
    def bytes(self) -> int:
        return self.recording.nbytes + (0 if self.thumbs is None else self.thumbs.numel())


class Maps:
    """The maps of the latest runs. now: the session's state."""

    def __init__(self, now: Callable[[], State]) -> None:
        self._now = now
        self._reading = threading.Lock()  # around the model: two queries of one run do not both run it
        self._held: Latest[tuple[int, RunKey], Mapped] = Latest()

    def clear(self) -> None:
        with self._reading:
            self._held.clear()

    def map(self, run: str, *, positive: int, negative: int, pos: int = -1) -> MapFile:
        """Every part's direct effect on a logit difference at one position of a run, and every head's pattern made small.

        The sum of embed, attn, mlp and the other terms is the metric of the run's own logits (`rs.direct_attribution`).

        Raises:
            NotFound, UnknownPosition, UnknownToken. As `rs.direct_attribution`.
        """
        mapped, model = self._mapped(run)
        recording = mapped.recording
        at = recording.index(pos)
        metric = logit_diff(model.token_id(positive), model.token_id(negative), pos=at)
        effects = direct_effects(recording, metric, at)
        terms = {name: float(x[0, 0]) for name, x in effects.components.items() if "_out." not in name}
        assert effects.heads is not None
        assert effects.attn_bias is not None
        tensors: MapTensors = {
            "attn": effects.attn[:, 0, 0].float(),
            "heads": effects.heads[:, :, 0, 0].float(),
            "attn_bias": effects.attn_bias[:, 0, 0].float(),
        }
        if effects.mlp is not None:
            tensors["mlp"] = effects.mlp[:, 0, 0].float()
        if mapped.thumbs is not None:
            tensors["thumbs"] = mapped.thumbs
        value, lacking = float(effects.metric[0, 0]), model.sites.absent.get("pattern")
        where, whole = json.dumps(at), json.dumps(value)
        return MapFile.of(
            tensors, {"pos": where, "metric": whole, "terms": json.dumps(terms), "absent": json.dumps(lacking)}
        )

    def layer(self, run: str, *, layer: int, positive: int, negative: int, pos: int = -1) -> LayerFile:
        """One layer of a run in full: patterns, lengths of z, the strongest neurons by direct effect, every site with its shape.

        Raises:
            NotFound, UnknownLayer, UnknownPosition. As `rs.direct_attribution`.
        """
        mapped, model = self._mapped(run)
        recording = mapped.recording
        at = recording.index(pos)
        if not 0 <= layer < model.n_layers:
            n = model.n_layers
            raise UnknownLayer(f"the model has {n} layers", received=layer, allowed=f"0 to {n - 1}")
        names, lacking = model.sites.names, model.sites.absent.get("mlp_post")
        own = [Site(name, layer) for name, kind in KINDS.items() if kind.layered and name in names]
        part = recording.holding(recording.sites)  # what is read of it goes with it
        values = part.several(own)
        tensors: LayerTensors = {"z_norm": values[model.sites.canonical(Site("z", layer))][0, at].float().norm(dim=-1)}
        if "pattern" in names:
            tensors["pattern"] = values[model.sites.canonical(Site("pattern", layer))][0].float()
        if lacking is None:
            metric = logit_diff(model.token_id(positive), model.token_id(negative), pos=at)
            effects = direct_effects(part, metric, at, heads=False, neurons=[layer]).neurons[layer][:, 0, 0].float()
            best = effects.abs().topk(min(NEURONS, len(effects))).indices
            tensors |= {"neuron": best.long(), "neuron_effect": effects[best]}
        sites = [_site(model, site, values[model.sites.canonical(site)], at) for site in own]
        return LayerFile.of(tensors, {"pos": json.dumps(at), "sites": json.dumps(sites), "absent": json.dumps(lacking)})

    def lens(self, run: str, *, pos: int = -1) -> RowsLens:
        """The likeliest token of the logit lens at each row of one position: `embed`, then what each layer leaves.

        Raises NotFound, UnknownPosition.
        """
        mapped, model = self._mapped(run)
        recording, n = mapped.recording, model.n_layers
        at = recording.index(pos)
        rows = [recording[f"resid_pre.{layer}"][0, at] for layer in range(n)]
        found = model.lens(torch.stack(rows)).float()
        last = recording.logits_at(at)[:1].float()
        best = [top_tokens(model, logits, 1) for logits in torch.cat([found, last.to(found)])]
        return {"top": [one for row in best for one in top(row)]}

    def _mapped(self, run: str) -> tuple[Mapped, Model]:
        state = self._now()
        found = find_run(state, run)
        loaded = state.loaded_of(found)
        key = id(loaded.model), found.key
        with self._reading:
            mapped = self._held.get(key)
            if mapped is None or mapped.recording.stale:
                edits = state.world().on(found.prompt).made(found.active)
                mapped = read(loaded.model, list(found.prompt.ids), edits)
                self._held.put(key, mapped)
        return mapped, loaded.model


def read(model: Model, ids: list[int], edits: Sequence[Edit]) -> Mapped:
    """A run with the sites that effects are read from, and its patterns made small: in one pass, unless they are too large."""
    heads = range(model.n_layers)
    patterns = [Site("pattern", layer) for layer in heads if "pattern" in model.sites.names]
    size = model.n_heads * len(ids) ** 2 * model.dtype.itemsize
    together = len(patterns) * size <= PATTERN_BYTES
    sites = [
        *direct_sites(model, edits=prepare(model, edits, (len(ids),))),
        *(str(Site("resid_pre", n)) for n in heads),
    ]
    whole = model.run(ids, [*dict.fromkeys(sites), *(map(str, patterns) if together else ())], edits=edits)
    if together:
        kept = whole.holding(sites)
        return Mapped(kept, torch.stack([small(whole[site][0]) for site in patterns]) if patterns else None)
    each = max(1, PATTERN_BYTES // size)
    thumbs = []
    for first in range(0, len(patterns), each):
        some = patterns[first : first + each]
        part = whole.holding(sites).several(some)
        thumbs += [small(part[site][0]) for site in some]
    return Mapped(whole, torch.stack(thumbs))


def small(pattern: Float[Tensor, "head query key"]) -> UInt8[Tensor, "head row col"]:
    """255 A, the largest of each block of tokens, rounded up, so that a cell that stands alone stays."""
    length = pattern.shape[-1]
    block = ceil(length / SMALL)
    pooled = max_pool2d(pattern.float()[None], block, ceil_mode=True)[0] if block > 1 else pattern.float()
    return (pooled * 255).ceil().clamp(0, 255).to(torch.uint8).cpu()


def _site(model: Model, site: Site, value: Tensor, at: int) -> dict[str, Any]:
    """A site in words: its axes and their sizes, what stands there, and how long it is at the position."""
    sizes = {axis: n for axis, n in zip(site.kind.axes, value.shape, strict=True) if axis not in ("batch", "1")}
    norm = float(value[0, at].float().norm()) if site.kind.axes[1] == "pos" else None
    return {"site": str(site), "shape": sizes, "about": site.kind.about, "norm": norm}
