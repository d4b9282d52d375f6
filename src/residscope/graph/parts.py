"""A model's own parts as dictionaries, for graphs between them and features: neurons and heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.engine.model import Model


def neurons(model: Model, layer: int) -> Dictionary:
    """The neurons of an MLP: coordinate i is the activation of neuron i at `mlp_post`, and writing it sets it there.

    Raises SiteError: the model has no such layer, or none with neurons.
    """
    site = model.sites.canonical(f"mlp_post.{layer}")
    axes = torch.eye(model.sites.width(site))
    names = tuple(f"neuron {i}" for i in range(len(axes)))
    return Dictionary("neurons", str(site), axes, axes, torch.zeros(len(axes)), names=names)


def heads(model: Model, layer: int) -> "Heads":
    """The attention heads of a layer: coordinate h is the length of head h's own output |z_h|, and taking it out zeroes z_h.

    Raises SiteError: the model has no such layer, or none with attention.
    """
    site = model.sites.canonical(f"z.{layer}")
    sizes = model.heads_at(layer)
    own = torch.eye(sizes.n_heads).repeat_interleave(sizes.d_head, 1)
    return Heads("heads", str(site), own, own, torch.zeros(own.shape[1]))


@dataclass(frozen=True, eq=False, repr=False)
class Heads(Dictionary):
    """Heads end to end at a `z` site, read by their lengths: a change of a coordinate makes that head's vector longer or shorter.

        a_h = |z_h|        added = change z_h / |z_h|

    read and write have ones where a head is. What they leave out is nothing.
    """

    name: str
    site: str
    read: Float[Tensor, "n d"]
    write: Float[Tensor, "n d"]
    mean: Float[Tensor, " d"]
    sd: None = None
    variance: None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    head: None = None
    space: str = "raw"
    offset: None = None
    names: tuple[str, ...] | None = None

    @property
    def flat(self) -> bool:
        return True

    @property
    def hashed(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        return {"read": self.read}, {}

    def encode(
        self, x: Float[Tensor, "*batch d"], *, model: Model | None = None, indices: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch n"]:
        """The length of each head's vector, or of some heads'. Raises WrongWidth; DirectionError for no such head."""
        self.check_width(x)
        lengths: Tensor = self._apart(x).norm(dim=-1)
        if indices is None:
            return lengths
        self.check_index(*indices)
        return lengths[..., [*indices]]

    def reconstruct(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """x itself."""
        return x

    def added(
        self, x: Float[Tensor, "*batch d"], change: Float[Tensor, "*batch some"], indices: Sequence[int]
    ) -> Float[Tensor, "*batch d"]:
        """What longer or shorter vectors of some heads add."""
        apart = self._apart(x).to(change)
        unit = apart / apart.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(change.dtype).tiny)
        scale = torch.zeros(*change.shape[:-1], len(self), dtype=change.dtype, device=change.device)
        scale[..., [*indices]] = change
        moved: Tensor = (unit * scale[..., None]).flatten(-2)
        return moved

    def _apart(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n d_head"]:
        return x.reshape(*x.shape[:-1], len(self), -1)

    def label(self, index: int) -> str:
        """Such as "head 3"."""
        return f"head {index}"
