"""The stream in front of a block as a sum of what was written into it: by components and heads, or by a dictionary's features."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.engine.recording import Recording
from residscope.errors import GraphError
from residscope.graph.nodes import levels_of
from residscope.methods._lib.circuits import output_weights
from residscope.model.sites import Site

BY = ("head", "component")
BIASES, EDITS, ERROR, MEAN = "biases of attention", "edits", "error", "mean"


def writes(
    record: Recording, layer: int, pos: int, *, by: str, dictionary: Dictionary | None
) -> dict[str, Float[Tensor, " d_model"]]:
    """What the stream before a block is the sum of, at one position, by name."""
    whole = record["resid_pre", layer][0, pos]
    parts = _components(record, layer, pos, by) if dictionary is None else _features(record, layer, pos, dictionary)
    if record.edits and dictionary is None:
        parts[EDITS] = whole - torch.stack([*parts.values()]).sum(0)
    return parts


def _components(record: Recording, layer: int, pos: int, by: str) -> dict[str, Tensor]:
    """Embeddings, and of each earlier block its heads (or attention as one) and its MLP."""
    model = record.model
    names = model.sites.names
    scaled = by == "head" and "attn_post_scale" in names
    inner = ("z", "attn_out") if by == "head" else ("attn_out",)
    sites = [Site(name) for name in ("embed", "pos_embed") if name in names]
    for name in (*inner, *(["attn_post_scale"] if scaled else []), "mlp_out"):
        sites += [Site(name, below) for below in range(layer) if name in names]
    home = record["resid_pre", layer].device  # blocks may stand on several
    values = {site: value[0, pos].to(home) for site, value in record.several(sites).items()}
    parts = {site.name: values[site] for site in sites if site.layer is None}
    biases = torch.zeros_like(values[Site("embed")])
    for below in range(layer):
        attn = values[model.sites.canonical(Site("attn_out", below))]
        if by == "head":
            own = torch.einsum("hd,hdm->hm", values[Site("z", below)], output_weights(model, below).to(attn))
            own = own * model.layout.factors.residual
            own = own / values[Site("attn_post_scale", below)] if scaled else own
            parts |= {f"{below}.h{head}": write for head, write in enumerate(own)}
            biases = biases + attn - own.sum(0)
        else:
            parts[f"{below}.attn"] = attn
        if "mlp_out" in names:
            parts[f"{below}.mlp"] = values[Site("mlp_out", below)]
    return parts | ({BIASES: biases} if by == "head" and layer else {})


def _features(record: Recording, layer: int, pos: int, dictionary: Dictionary) -> dict[str, Tensor]:
    """The features that are active there, what the dictionary leaves out, and what it writes beside its features."""
    table, site = record.model.sites, record.model.sites.canonical(f"resid_pre.{layer}")
    if {table.canonical(dictionary.read_site), table.canonical(dictionary.write_site)} != {site}:
        raise GraphError(
            "a score is split by a dictionary of the stream that its block reads",
            received=f"{dictionary.name} of {dictionary.place}",
            allowed=str(site),
            fix="give one of that site, or none: then by heads",
        )
    (level,) = levels_of(record.model, record, [(dictionary.name, dictionary)])
    active = level.coordinates[pos].nonzero()[:, 0].tolist()
    parts = {f"{dictionary.name}/{i}": level.written(i)[pos] for i in active}
    whole = level.x[pos] - level.error[pos]
    parts[MEAN] = whole - torch.stack([*parts.values()]).sum(0) if parts else whole
    return parts | {ERROR: level.error[pos]}
