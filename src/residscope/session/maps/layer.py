"""One layer of a run in full: its patterns, its strongest neurons, and every site with its equation and what stands there."""

import json

import torch
from torch import Tensor

from residscope.engine.flow import Step, flow
from residscope.engine.model import Model
from residscope.engine.protocols import Readout
from residscope.engine.recording import Recording
from residscope.methods._lib.direct import direct_effects
from residscope.model.sites import Site
from residscope.session.maps.files import LayerFile, LayerTensors, SiteRow
from residscope.session.maps.reading import held_as

NEURONS = 8
MOST_WHOLE = 256  # tokens of a prompt whose patterns are sent in full: no picture has room for more


def layer_file(
    whole: Recording, layer: int, at: int, *, metric: Readout | None = None, row: Recording | None = None
) -> LayerFile:
    """A layer at one position. What is computed for it goes with it. Raises as `direct_effects`.

    whole: the run by its stream. metric: what neurons are read by, where they are asked for; row: the run from that position on,
    with the sites that effects are read from.
    """
    model = whole.model
    table, lacking = model.sites, without_neurons(model, layer) or None
    steps = flow(model.layout, layer)
    values = whole.holding(whole.sites).several(step.place for step in steps if not step.hidden)
    at_site = {step.place: values[model.sites.canonical(step.place)] for step in steps if not step.hidden}
    z = at_site[f"z.{layer}"][0, at].float() if table.has("z", layer) else torch.zeros(model.n_heads, 1)
    tensors: LayerTensors = {"z_norm": z.norm(dim=-1)}
    if table.has("pattern", layer) and whole.lengths[0] <= MOST_WHOLE:
        tensors["pattern"] = at_site[f"pattern.{layer}"][0].float()
    if metric is not None and row is not None and lacking is None:
        own = [Site(name, layer) for name in ("mlp_post", "mlp_post_scale") if table.has(name, layer)]
        part = held_as(row, row.held | {site: at_site[str(site)][:, row.offset :] for site in own}, window=row.window)
        effects = direct_effects(part, metric, at, heads=False, neurons=[layer]).neurons[layer][:, 0, 0].float()
        best = effects.abs().topk(min(NEURONS, len(effects))).indices
        tensors |= {"neuron": best.long(), "neuron_effect": effects[best]}
    rows = [hidden(model, step) if step.hidden else site_row(step, at_site[step.place], at) for step in steps]
    return LayerFile.of(tensors, {"pos": json.dumps(at), "sites": json.dumps(rows), "absent": json.dumps(lacking)})


def site_row(step: Step, value: Tensor, at: int) -> SiteRow:
    """A site at one position: lengths, by head where it has heads; of attention and a router, what is largest and where."""
    site = Site.parse(step.place)
    axes = site.kind.axes
    here = value[0, :, at] if axes[1] == "head" else value[0, at]
    where = None
    if axes[-1] in ("key", "expert"):
        most, found = here.float().reshape(-1, here.shape[-1]).max(-1)
        values, where = most.tolist(), found.tolist()
    else:
        values = here.float().reshape(-1, here.shape[-1]).norm(dim=-1).tolist()
    return {
        "site": step.place,
        "place": step.place,
        "shape": {axis: n for axis, n in zip(axes, value.shape, strict=True) if axis not in ("batch", "1")},
        "about": site.kind.about,
        "norm": float(here.float().norm()) if axes[1] == "pos" else None,
        "values": values,
        "where": where,
        "equation": step.equation,
        "reads": [*step.reads],
        "same": step.same,
    }


def without_neurons(model: Model, layer: int) -> str:
    """Why a layer's neurons are not seen; nothing where they are."""
    absent = model.sites.absent
    return absent.get("mlp_post") or absent.get(f"mlp_post.{layer}", "")


def hidden(model: Model, step: Step) -> SiteRow:
    """A part of the block that no site shows."""
    return {
        "site": "",
        "place": step.place,
        "shape": {"expert": model.sites.sizes.n_experts},
        "about": without_neurons(model, int(step.place.rpartition(".")[2])),
        "norm": None,
        "values": [],
        "where": None,
        "equation": step.equation,
        "reads": [*step.reads],
        "same": None,
    }
