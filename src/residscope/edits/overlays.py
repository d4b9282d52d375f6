"""Overlays: a weight change of low rank that lives only in the run."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residscope import fields
from residscope.declare import edit
from residscope.edits.base import BaseEdit
from residscope.engine.layout import Layout
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.seams import LaidOverlay
from residscope.errors import BadEdit, WrongWidth
from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True, eq=False, repr=False)
class Overlay(BaseEdit):
    """W + A B in the place of W, for every call of one module. `site` is the weight's name. See `overlay`.

    `first` is the first site that the change can reach: known once the edit has met its model.
    """

    A: Tensor | None = None
    B: Tensor | None = None
    first: str | None = None
    kind: ClassVar[str] = "overlay"

    def __post_init__(self) -> None:
        A, B = self.A, self.B
        if (
            not isinstance(A, Tensor)
            or not isinstance(B, Tensor)
            or not A.is_floating_point()
            or not B.is_floating_point()
        ):
            raise BadEdit(
                "an overlay is two matrices",
                received=f"{type(A).__name__} and {type(B).__name__}",
                allowed="tensors A [d_in, r] and B [r, d_out], or two vectors",
            )
        if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
            raise WrongWidth(
                "the two matrices of an overlay do not multiply",
                received=f"{tuple(A.shape)} and {tuple(B.shape)}",
                allowed="[d_in, r] and [r, d_out], or a vector of each width",
            )
        if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
            raise BadEdit("the overlay has NaN or infinite entries", received=self.site)
        if any(x is not None for x in (self.head, self.kv_head, self.neuron, self.pos)):
            raise BadEdit("a weight acts at every position", received=self.label, allowed="no head, neuron or pos")

    @property
    def idle(self) -> str | None:
        assert self.A is not None
        assert self.B is not None
        return "it adds nothing to the weight" if not (self.A.any() and self.B.any()) else None

    def prepare(self, model: Model) -> "Overlay":
        return replace(self, first=str(_first_site(self._laid(model.layout).module, model.layout)))

    def places(self, table: SiteTable) -> list[Site]:
        return [] if self.first is None else [table.canonical(self.first)]

    def overlays(self, layout: Layout) -> list[LaidOverlay]:
        return [self._laid(layout)]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value

    def _laid(self, layout: Layout) -> LaidOverlay:
        name = self.site.removesuffix(".weight")
        module = dict(layout.hf.named_modules()).get(name)
        weight = getattr(module, "weight", None)
        if module is None or not isinstance(weight, Tensor) or weight.ndim != 2:
            known = [n for n, m in layout.hf.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
            near = get_close_matches(name, known, n=3, cutoff=0.5)
            raise BadEdit(
                "the model has no such matrix",
                received=repr(self.site),
                allowed="the name of a linear layer or an embedding in model.hf, such as " + ", ".join(known[1:3]),
                fix="did you mean " + " or ".join(near) + "?" if near else None,
            )
        assert self.A is not None
        assert self.B is not None
        d_in, d_out = weight.shape if _in_first(module) else weight.T.shape
        if (self.A.shape[0], self.B.shape[1]) != (d_in, d_out):
            raise WrongWidth(
                f"the overlay does not fit {name}",
                received=f"A {tuple(self.A.shape)}, B {tuple(self.B.shape)}",
                allowed=f"A ({d_in}, r), B (r, {d_out})",
            )
        return LaidOverlay(module, weight, self.A.to(weight.device), self.B.to(weight.device))


@edit(title="Change a weight", glyph="W", says="rank one")
def overlay(
    weight: Annotated[str, fields.name(of="weight")],
    low_rank: Annotated[tuple[Float[Tensor, "..."], Float[Tensor, "..."]], fields.rank_one()],
) -> Overlay:
    """Add A B to a weight for this run alone: y = x W becomes x W + (x A) B. The user's weights are not touched.

    weight: a module of `model.hf` or its weight, such as `model.layers.3.mlp.down_proj`. low_rank: A [d_in, r] and B [r, d_out],
    as x reads them whichever way round the module keeps its weight; or two vectors, for rank one (Meng et al., 2022,
    arXiv:2202.05262; Hu et al., 2021, arXiv:2106.09685). Of an embedding, d_in is the vocabulary. Where two modules share one
    weight (a tied unembedding), only the one named is overlaid.
    """
    if not isinstance(low_rank, tuple | list) or len(low_rank) != 2:
        raise BadEdit("an overlay is two matrices", received=type(low_rank).__name__, allowed="(A, B)")
    A, B = low_rank
    if isinstance(A, Tensor) and isinstance(B, Tensor) and A.ndim == B.ndim == 1:
        A, B = A[:, None], B[None]
    return Overlay(weight, A=_own(A), B=_own(B))


def _own(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _in_first(module: Any) -> bool:
    """Whether a module keeps its weight as [d_in, d_out]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Embedding | Conv1D)


def _first_site(module: Any, layout: Layout) -> Site:
    for layer, parts in enumerate(layout.blocks):
        if any(module is m for m in parts.block.modules()):
            return Site("resid_pre", layer)
    return Site("final_norm") if module is layout.unembed else Site("embed")
