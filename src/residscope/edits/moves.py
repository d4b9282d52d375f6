"""Edits along directions: add to a coordinate, set it, or take it away."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from residscope.directions import Direction
from residscope.edits.base import BaseEdit, Index, as_number, fitting, indices, number, of_head, readable, write_of
from residscope.engine.protocols import At
from residscope.errors import BadEdit, ZeroDirection


@dataclass(frozen=True, eq=False, repr=False)
class Steer(BaseEdit):
    """Add a multiple of a direction's write vector. See `steer`."""

    direction: Direction | Tensor = field(default_factory=lambda: torch.empty(0))
    strength: float = 0.0
    unit: str = "norm"
    kind: ClassVar[str] = "steer"

    def __post_init__(self) -> None:
        number(self.strength, "strength")
        if self.unit not in ("norm", "sd"):
            raise BadEdit("no such unit", received=f"unit={self.unit!r}", allowed='"norm" or "sd"')
        if self.unit == "sd" and (isinstance(self.direction, Tensor) or self.direction.scale is None):
            raise BadEdit(
                "the direction does not know its standard deviation",
                received=repr(self.direction),
                fix='use unit="norm"',
            )
        if not float(write_of(self.direction).norm()) > 0:
            raise ZeroDirection("steering along a direction of length zero", received=repr(self.direction))
        if self.unit == "sd" and isinstance(self.direction, Direction) and not readable(self.direction):
            raise ZeroDirection("steering along write does not move what read reads", received=repr(self.direction))

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
        number(self.value, "value")
        if not float(write_of(self.direction).norm()) > 0:
            raise ZeroDirection("clamping along a direction of length zero", received=repr(self.direction))
        if isinstance(self.direction, Direction) and not readable(self.direction):
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
            if not float(write_of(direction).norm()) > 0:
                raise ZeroDirection("projecting out a direction of length zero", received=repr(direction))
            if isinstance(direction, Direction) and not readable(direction):
                raise ZeroDirection("moving along write does not change what read reads", received=repr(direction))

    def change(self, value: Tensor, at: At) -> Tensor:
        reads = [d if isinstance(d, Tensor) else d.read for d in self.directions]
        R = torch.stack([fitting(read, value, at) for read in reads]).double()
        W = torch.stack([fitting(write_of(d), value, at) for d in self.directions]).double()
        coordinates = (value.double() @ R.T) @ torch.linalg.pinv(W @ R.T)
        return (value.double() - coordinates @ W).to(value.dtype)


def steer(site: str, direction: Direction | Tensor, strength: float, *, unit: str = "norm", **where: Index) -> Steer:
    """Add `strength` times the write vector at unit length; with `unit="sd"`, move the coordinate by that many sd.

    A direction of one head acts at that head alone, at a site with heads, unless head= says another.
    """
    where = of_head(str(site), [direction], where)
    return Steer(str(site), direction=direction, strength=as_number(strength, "strength"), unit=unit, **indices(where))


def clamp(site: str, direction: Direction | Tensor, value: float, *, space: str | None = None, **where: Index) -> Clamp:
    """Set the coordinate along a direction to `value`, whatever it was, by moving along its write vector.

    The coordinate is what `rec.project(direction)` shows: read . x, less the offset for a direction made in the centred
    space (a principal component). A `lens` coordinate goes through the final norm: say `space="raw"` for its read . x.
    """
    where = of_head(str(site), [direction], where)
    return Clamp(str(site), direction=direction, value=as_number(value, "value"), space=space, **indices(where))


def project_out(site: str, directions: Direction | Tensor | Sequence[Direction | Tensor], **where: Index) -> ProjectOut:
    """Remove the coordinates along one or several directions. Doing it twice changes nothing more."""
    several = (directions,) if isinstance(directions, Direction | Tensor) else tuple(directions)
    where = of_head(str(site), several, where)
    return ProjectOut(str(site), directions=several, **indices(where))
