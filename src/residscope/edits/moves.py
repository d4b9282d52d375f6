"""Edits along directions: add to a coordinate, set it, or take it away."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Unpack

import torch
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.directions import Direction
from residscope.edits.base import (
    BaseEdit,
    Where,
    as_number,
    fitting,
    indices,
    of_head,
    reads_own_write,
    require_number,
    require_width,
    write_of,
)
from residscope.engine.protocols import At
from residscope.errors import BadEdit, WrongWidth, ZeroDirection
from residscope.model.sites import SiteTable

LEAST = 1e-6
"""The least cosine of what is read and what is written, as in `reads_own_write`: at it a move is a million times the change."""


@dataclass(frozen=True, eq=False, repr=False)
class Steer(BaseEdit):
    """Add a multiple of a direction's write vector. See `steer`."""

    direction: Direction | Tensor = field(default_factory=lambda: torch.empty(0))
    strength: float = 0.0
    unit: str = "norm"
    kind: ClassVar[str] = "steer"

    def __post_init__(self) -> None:
        require_number(self.strength, "strength")
        if self.unit not in ("norm", "sd"):
            raise BadEdit("no such unit", received=f"unit={self.unit!r}", allowed='"norm" or "sd"')
        if self.unit == "sd" and (isinstance(self.direction, Tensor) or self.direction.scale is None):
            raise BadEdit(
                "the direction does not know its standard deviation",
                received=repr(self.direction),
                fix='use unit="norm"',
            )
        has_length(self.direction, "steering along")
        if self.unit == "sd" and isinstance(self.direction, Direction):
            if not reads_own_write(self.direction):
                raise ZeroDirection("steering along write does not move what read reads", received=repr(self.direction))
            if self.direction.space == "lens" or not float(self.direction.scale or 0) > 0:
                raise BadEdit(
                    "a coordinate moves by its standard deviation where that is over zero and it is linear in the stream",
                    received=f"scale={self.direction.scale}, space={self.direction.space!r}",
                    fix='use unit="norm"',
                )

    def fits(self, table: SiteTable) -> None:
        require_width([self.direction], self.places(table), table)

    @property
    def idle(self) -> str | None:
        return "its strength is zero" if self.strength == 0 else None

    def change(self, value: Tensor, at: At) -> Tensor:
        write = fitting(write_of(self.direction), value, at).double()
        if self.unit == "sd" and isinstance(self.direction, Direction) and self.direction.scale is not None:
            moved = write / (self.direction.read.to(write) @ write) * self.direction.scale
        else:
            moved = write / write.norm()
        return value + (self.strength * moved).to(value.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(BaseEdit):
    """Set a coordinate: x + (value - c(x)) / (read . write) write. See `clamp`."""

    direction: Direction | Tensor = field(default_factory=lambda: torch.empty(0))
    value: float = 0.0
    space: str | None = None
    kind: ClassVar[str] = "clamp"

    def __post_init__(self) -> None:
        require_number(self.value, "value")
        has_length(self.direction, "clamping along")
        if isinstance(self.direction, Direction) and not reads_own_write(self.direction):
            raise ZeroDirection("moving along write does not change what read reads", received=repr(self.direction))
        if self._space not in ("raw", "centred"):
            raise BadEdit(
                "only a coordinate that is linear in the stream can be set by moving along one vector",
                received=f"space={self._space!r}",
                allowed='"raw" (read . x) or "centred" (read . x - offset)',
                fix='say space="raw"',
            )

    @property
    def _space(self) -> str:
        own = self.direction.space if isinstance(self.direction, Direction) else "raw"
        return own if self.space is None else self.space

    def fits(self, table: SiteTable) -> None:
        require_width([self.direction], self.places(table), table)

    def change(self, value: Tensor, at: At) -> Tensor:
        d = self.direction
        read = fitting(d if isinstance(d, Tensor) else d.read, value, at).double()
        write = fitting(write_of(d), value, at).double()
        offset = d.offset if isinstance(d, Direction) and self._space == "centred" else 0.0
        short = self.value + offset - value.double() @ read
        return (value.double() + (short / (read @ write)).unsqueeze(-1) * write).to(value.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut(BaseEdit):
    """Remove coordinates along directions: x - W (R W)^-1 R x, so that every read . x becomes 0. See `project_out`."""

    directions: tuple[Direction | Tensor, ...] = ()
    kind: ClassVar[str] = "project_out"

    def __post_init__(self) -> None:
        if not self.directions:
            raise BadEdit("project_out needs a direction", received="none")
        for direction in self.directions:
            has_length(direction, "projecting out")
            if isinstance(direction, Direction) and not reads_own_write(direction):
                raise ZeroDirection("moving along write does not change what read reads", received=repr(direction))
        if len({write_of(direction).shape for direction in self.directions}) > 1:
            widths = ", ".join(str(len(write_of(direction))) for direction in self.directions)
            raise WrongWidth("the directions are of several widths", received=widths, allowed="one")
        self._bases()

    def _bases(self) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal bases Q of what is read and P of what is written, and the pseudo-inverse of P Q^T. Raises ZeroDirection."""
        Q = _basis([d if isinstance(d, Tensor) else d.read for d in self.directions])
        P = _basis([write_of(d) for d in self.directions])
        u, cosines, v = torch.linalg.svd(P @ Q.T, full_matrices=False)
        if len(P) < len(Q) or not float(cosines.min()) > LEAST:
            raise ZeroDirection(
                "moving along what these directions write cannot bring all that they read to zero",
                received=f"{len(self.directions)} directions, which read {len(Q)} dimensions; of those, writing reaches one "
                f"with a cosine of {0.0 if len(P) < len(Q) else float(cosines.min()):.2g} only",
                allowed=f"a cosine over {LEAST:g} for each",
                fix="leave out a direction, or give those that read alike what they read to write along",
            )
        return Q, P, (v.T / cosines) @ u.T

    def fits(self, table: SiteTable) -> None:
        require_width(self.directions, self.places(table), table)

    def change(self, value: Tensor, at: At) -> Tensor:
        for direction in self.directions:
            fitting(write_of(direction), value, at)
        Q, P, inverse = (part.to(value.device) for part in self._bases())
        wide = value.double()
        return (wide - (wide @ Q.T) @ inverse @ P).to(value.dtype)


def has_length(direction: Any, doing: str) -> None:
    """Refuse what is no vector, has no length, or is not finite."""
    vector = write_of(direction)
    if vector.ndim != 1 or vector.is_complex() or vector.dtype == torch.bool:
        received = f"{str(vector.dtype).removeprefix('torch.')} {tuple(vector.shape)}"
        raise WrongWidth("a direction is one vector of real numbers", received=received, allowed="such as (576,)")
    if not 0 < float(vector.double().norm()) < float("inf"):
        raise ZeroDirection(f"{doing} a direction of length zero, or not finite", received=repr(direction)[:200])


def _basis(vectors: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis, as rows, of what vectors span; two that agree to 1e-6 of their lengths count once."""
    wide = torch.stack([vector.detach().double().cpu() for vector in vectors])
    _, sizes, basis = torch.linalg.svd(wide / wide.norm(dim=1, keepdim=True), full_matrices=False)
    return basis[sizes > LEAST]


@edit(title="Steer", glyph="→")
def steer(
    site: Annotated[str, fields.site(usual="resid_post")],
    direction: Annotated[Direction | Tensor, fields.direction()],
    strength: Annotated[
        float, fields.number(strength=True, slide=(-100, 100), step=1, by=(("unit", "sd", (-8, 8), 0.25, "σ"),))
    ],
    *,
    unit: Annotated[str, fields.choice("norm", "sd")] = "norm",
    **where: Unpack[Where],
) -> Steer:
    """Add `strength` times the write vector at unit length; with `unit="sd"`, move the coordinate by that many sd.

    A direction of one head acts at that head alone, at a site with heads, unless head= says another.
    """
    places = indices(of_head(str(site), [direction], where))
    return Steer(str(site), direction=direction, strength=as_number(strength), unit=unit, **places)


@edit(title="Set the coordinate", glyph="=")
def clamp(
    site: Annotated[str, fields.site(usual="resid_post")],
    direction: Annotated[Direction | Tensor, fields.direction()],
    value: Annotated[float, fields.number(strength=True, slide=(-100, 100), step=1)],
    *,
    space: Annotated[str | None, fields.choice("raw", "centred")] = None,
    **where: Unpack[Where],
) -> Clamp:
    """Set the coordinate along a direction to `value`, whatever it was, by moving along its write vector.

    The coordinate is what `rec.project(direction)` shows: read . x, less the offset for a direction made in the centred
    space (a principal component). A `lens` coordinate goes through the final norm: say `space="raw"` for its read . x.
    """
    places = indices(of_head(str(site), [direction], where))
    return Clamp(str(site), direction=direction, value=as_number(value), space=space, **places)


@edit(title="Project out", glyph="⊥")
def project_out(
    site: Annotated[str, fields.site(usual="resid_post")],
    directions: Annotated[
        Direction | Tensor | Sequence[Direction | Tensor], fields.direction(name="direction", several=True)
    ],
    **where: Unpack[Where],
) -> ProjectOut:
    """Remove the coordinates along one or several directions: every read . x becomes 0. Doing it twice changes nothing more.

        x - P^T (P Q^T)^+T Q x,   Q, P orthonormal bases of what the directions read and write; x - W (R W)^-1 R x where R W
        has an inverse

    Directions that agree, such as one given twice, count once. Raises ZeroDirection where moving along what they write cannot
    bring all that they read to zero: where a dimension read has a cosine of 1e-6 or less with what is written.
    """
    several = (directions,) if isinstance(directions, Direction | Tensor) else tuple(directions)
    return ProjectOut(str(site), directions=several, **indices(of_head(str(site), several, where)))
