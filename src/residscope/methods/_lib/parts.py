"""Heads, MLPs, neurons and streams as the parts that gradients are shared out over."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.methods._lib.cells import Cells
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.results import Result
from residscope.views import Table

SITES = {"inputs": "embed", "heads": "z", "mlps": "mlp_out", "neurons": "mlp_post", "resid": "resid_pre"}
MOST_ROWS = 30


def require_parts(model: Model, of: str, allowed: Sequence[str]) -> None:
    """Raises BadArguments: no such parts. QuantisedModel. SiteError: the family has none."""
    if of not in allowed:
        raise BadArguments("attributions are of parts of the model", received=repr(of), allowed=", ".join(allowed))
    model.require_exact_weights("gradients")
    model.sites.expand(SITES[of])


def per_part(
    product: Float[Tensor, "prompt pos ..."], site: Site, places: Int[Tensor, "prompt some"] | None
) -> Float[Tensor, "prompt ..."]:
    """Entries of a site summed over what belongs to one part: at each of the places, or over all positions."""
    if site.name != "mlp_post":
        product = product.sum(-1)
    if places is None:
        return product.sum(1)
    return product[torch.arange(len(product))[:, None], places.to(product.device)]


def places_of(labels: Sequence[Any], batch: Batch, names: PromptSet | None) -> Int[Tensor, "prompt some"]:
    """Where each position stands in each prompt: negative ones from its own end, names as the set has them."""
    columns = [
        [p % n for n in batch.lengths] if isinstance(p, int) else list(names.at(p)) if names is not None else []
        for p in labels
    ]
    return torch.tensor(columns).T


def labelled(cells: Cells, of: str, width: int) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    """The grid's dimensions with the neurons', and the labels along each."""
    dims, coords = cells.dims, dict(cells.coords)
    if of == "neurons":
        return (*dims, "neuron"), {**coords, "neuron": tuple(range(width))}
    return dims, coords


def part_at(index: int, dims: Sequence[str], coords: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A part's label along each dimension, by its number."""
    found = {}
    for dim in reversed(dims):
        index, at = divmod(index, len(coords[dim]))
        found[dim] = coords[dim][at]
    return {dim: found[dim] for dim in dims}


def largest(result: Result, name: str) -> Table:
    """The largest of very many, by their size."""
    values = result.values.flatten()
    order = values.abs().argsort(descending=True)[:MOST_ROWS].tolist()
    rows = [[*map(str, part_at(i, result.dims, result.coords).values()), float(values[i])] for i in order]
    note = "" if result.exact is True else f"Not exact: {result.exact}."
    columns = [*result.dims, f"{name}, {result.unit}"]
    return Table(columns, rows, title=f"The largest {len(order)} of {len(values):,}", note=note)
