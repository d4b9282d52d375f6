"""Tables by layer and head, of models of which some layers have fewer heads than others."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.engine.model import Model

Head = tuple[int, int]


def every_head(model: Model, layers: Sequence[int] | None = None) -> list[Head]:
    """Every head, as (layer, head); of some layers."""
    chosen = range(model.n_layers) if layers is None else layers
    return [(layer, head) for layer in chosen for head in range(model.heads_at(layer).n_heads)]


def there(model: Model) -> Bool[Tensor, "layer head"]:
    """Whether a layer has a head of this number."""
    counts = torch.tensor([model.heads_at(layer).n_heads for layer in range(model.n_layers)])
    return torch.arange(model.n_heads)[None] < counts[:, None]


def wide(x: Tensor, heads: int, axis: int, fill: float = torch.nan) -> Tensor:
    """A tensor with so many heads along an axis: `fill` for those that its layer lacks."""
    lacking = heads - x.shape[axis]
    if not lacking:
        return x
    shape = [*x.shape]
    shape[axis] = lacking
    return torch.cat([x, x.new_full(shape, fill)], axis)


def stacked(tables: Sequence[Tensor], dim: int = 0, *, axis: int = 0, fill: float = torch.nan) -> Tensor:
    """One tensor of each layer's, `fill` where a layer has no such head. axis: the heads', in each."""
    most = max(table.shape[axis] for table in tables)
    return torch.stack([wide(table, most, axis, fill) for table in tables], dim)


def filled(model: Model, heads: Sequence[Head], values: Tensor) -> Tensor:
    """Values of heads, the last axis, as a table by layer and head; NaN for the others."""
    table = values.new_full((*values.shape[:-1], model.n_layers, model.n_heads), torch.nan)
    if heads:
        layer, head = torch.tensor([*heads], device=values.device).T
        table[..., layer, head] = values
    return table
