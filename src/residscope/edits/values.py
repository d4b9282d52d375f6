"""Edits that need nothing but the value: replace, multiply, add, project out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from residscope.directions import Direction
from residscope.edits.base import BaseEdit, Index, fitting, indices, number, readable, write_of
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, WrongWidth, ZeroDirection


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(BaseEdit):
    """Replace by zero, by the mean over a data set, or by a given value. See `ablate`."""

    to: str | Tensor = "zero"
    over: Any = field(default=None)
    kind: ClassVar[str] = "ablate"

    def __post_init__(self) -> None:
        if isinstance(self.to, str) and self.to not in ("zero", "mean"):
            raise BadEdit(
                "ablate does not know this replacement",
                received=f"to={self.to!r}",
                allowed='"zero", "mean" or a tensor',
            )
        if isinstance(self.to, str) and self.to == "mean" and self.over is None:
            raise BadEdit("the mean needs its data", received="over=None", fix="say over=texts, prompts or a recording")

    def prepare(self, model: Model) -> "Ablate":
        if not isinstance(self.to, str) or self.to != "mean":
            return self
        sites = self.places(model.sites)
        if len(sites) != 1 or sites[0].name in ("scores", "pattern", "logits"):
            raise BadEdit(
                "the mean is taken at one site with positions", received=self.site, allowed="such as z.9 or mlp_out.3"
            )
        data = self.over if isinstance(self.over, Recording) else model.run(self.over, capture=[sites[0]])
        return replace(self, to=data[sites[0]][data.batch.real[:, data.offset :]].mean(0), over=None)

    def change(self, value: Tensor, at: At) -> Tensor:
        if isinstance(self.to, str):
            return torch.zeros_like(value)
        try:
            return self.to.to(value).expand_as(value)
        except RuntimeError:
            raise WrongWidth(
                f"the value does not fit {at.site}",
                received=str(tuple(self.to.shape)),
                allowed=f"broadcastable to {tuple(value.shape)}",
            ) from None

    def to_dict(self) -> dict[str, Any]:
        if self.over is not None:
            raise BadEdit("a mean over data is serialised once it is computed", fix="edit.prepare(model).to_dict()")
        return super().to_dict()


@dataclass(frozen=True, eq=False, repr=False)
class Scale(BaseEdit):
    """Multiply. See `scale`."""

    factor: float = 1.0
    kind: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        number(self.factor, "factor")

    def change(self, value: Tensor, at: At) -> Tensor:
        return value * self.factor


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


def ablate(site: str, to: str | Tensor = "zero", *, over: Any = None, **where: Index) -> Ablate:
    """Replace a site's value: by zero, by the `"mean"` over data (`over=` prompts or a recording), or by a tensor.

    >>> ablate("z.9", head=6)
    <ablate z.9 head 6>
    """
    return Ablate(str(site), to=to, over=over, **indices(where))


def scale(site: str, factor: float, **where: Index) -> Scale:
    """Multiply a site's value by `factor`."""
    return Scale(str(site), factor=float(factor), **indices(where))


def steer(site: str, direction: Direction | Tensor, strength: float, *, unit: str = "norm", **where: Index) -> Steer:
    """Add `strength` times the write vector at unit length; with `unit="sd"`, move the coordinate by that many sd."""
    return Steer(str(site), direction=direction, strength=float(strength), unit=unit, **indices(where))


def project_out(site: str, directions: Direction | Tensor | Sequence[Direction | Tensor], **where: Index) -> ProjectOut:
    """Remove the coordinates along one or several directions. Doing it twice changes nothing more."""
    several = (directions,) if isinstance(directions, Direction | Tensor) else tuple(directions)
    return ProjectOut(str(site), directions=several, **indices(where))
