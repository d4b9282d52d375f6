"""Edits: everything worth doing to the stream, as declarative, serialisable changes at sites.

    model.run(prompt, edits=[edits.ablate("z.9", head=6), edits.freeze("pattern.3"), edits.steer("resid_pre.6", d, 4.0)])

An edit takes `head` (`kv_head` on k and v), `neuron` and `pos` where its site has them; all of them unless said. Negative
positions count from each row's own end. Edits are values: they change nothing until a run applies them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, UnknownPosition, WrongWidth, ZeroDirection
from residscope.model.sites import Site, SiteTable
from residscope.plain import from_plain, to_plain

KINDS: dict[str, type["BaseEdit"]] = {}
Index = int | Sequence[int] | None
_WHERE = {"head", "kv_head", "neuron", "pos"}
_GROUPS = {
    "norms": (
        "attn_scale",
        "attn_post_scale",
        "mlp_scale",
        "mlp_post_scale",
        "q_scale",
        "k_scale",
        "final_scale",
    ),
    "patterns": ("pattern",),
}


@dataclass(frozen=True, eq=False)
class BaseEdit:
    """What all edits share: where they act. A kind of edit is a subclass with a `kind` and a `change`."""

    site: str
    head: tuple[int, ...] | None = None
    kv_head: tuple[int, ...] | None = None
    neuron: tuple[int, ...] | None = None
    pos: tuple[int, ...] | None = None

    kind: ClassVar[str] = ""
    needs_unedited: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.kind:
            KINDS[cls.kind] = cls

    def change(self, value: Tensor, at: At) -> Tensor:
        """The new value everywhere; `apply` keeps it to the heads, neurons and positions asked for."""
        raise NotImplementedError

    def places(self, table: SiteTable) -> list[Site]:
        group = _GROUPS.get(self.site)
        names = [self.site] if group is None else [name for name in group if name not in table.absent]
        sites = [site for name in names for site in table.expand(name)]
        for site in sites:
            for axis, index in (("head", self.head), ("kv_head", self.kv_head), ("d_mlp", self.neuron)):
                if index is not None:
                    table.check_index(site, axis, index)
        return [table.canonical(site) for site in sites]

    def reads(self, table: SiteTable) -> list[Site]:
        return []

    def prepare(self, model: Model) -> "BaseEdit":
        return self

    def apply(self, value: Tensor, at: At) -> Tensor:
        new = self.change(value, at).to(value.dtype)
        chosen = self._chosen(value, at)
        return new if chosen is None else torch.where(chosen, new, value)

    def _chosen(self, value: Tensor, at: At) -> Bool[Tensor, "..."] | None:
        """Which entries the edit is meant for; None for all."""
        masks: list[Tensor] = []
        axes = at.site.kind.axes
        for axis, index in (("head", self.head), ("kv_head", self.kv_head), ("d_mlp", self.neuron)):
            if index is not None:
                masks.append(_along(value, axes.index(axis), index))
        if self.pos is not None:
            along = _positions_axis(at)
            rows = torch.zeros(value.shape[0], value.shape[along], dtype=torch.bool, device=value.device)
            for row, length in enumerate(at.batch.lengths):
                for p in self.pos:
                    where = p + length if p < 0 else p
                    if not 0 <= where < length:
                        raise UnknownPosition(
                            f"the prompt has {length} tokens", received=f"pos={p}", allowed=f"{-length} to {length - 1}"
                        )
                    if where >= at.offset:
                        rows[row, where - at.offset] = True
            shape = [1] * value.ndim
            shape[0], shape[along] = rows.shape
            masks.append(rows.view(shape))
        if not masks:
            return None
        chosen = masks[0]
        for mask in masks[1:]:
            chosen = chosen & mask
        return chosen

    @property
    def label(self) -> str:
        """A few words: `ablate z.23 head 3`."""
        parts = [self.kind, self.site]
        for name in ("head", "kv_head", "neuron", "pos"):
            index = getattr(self, name)
            if index is not None:
                parts.append(f"{name} {', '.join(map(str, index))}")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tensors as base64 with their sha256."""
        found = {"kind": self.kind} | {f.name: to_plain(getattr(self, f.name)) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def __repr__(self) -> str:
        return f"<{self.label}>"


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
        _number(self.factor, "factor")

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
        _number(self.strength, "strength")
        if self.unit not in ("norm", "sd"):
            raise BadEdit("no such unit", received=f"unit={self.unit!r}", allowed='"norm" or "sd"')
        if self.unit == "sd" and (isinstance(self.direction, Tensor) or self.direction.scale is None):
            raise BadEdit(
                "the direction does not know its standard deviation",
                received=repr(self.direction),
                fix='use unit="norm"',
            )
        if not float(_write(self.direction).norm()) > 0:
            raise ZeroDirection("steering along a direction of length zero", received=repr(self.direction))
        if self.unit == "sd" and isinstance(self.direction, Direction) and not _readable(self.direction):
            raise ZeroDirection("steering along write does not move what read reads", received=repr(self.direction))

    def change(self, value: Tensor, at: At) -> Tensor:
        write = _fitting(_write(self.direction), value, at).double()
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
            if not float(_write(direction).norm()) > 0:
                raise ZeroDirection("projecting out a direction of length zero", received=repr(direction))
            if isinstance(direction, Direction) and not _readable(direction):
                raise ZeroDirection("moving along write does not change what read reads", received=repr(direction))

    def change(self, value: Tensor, at: At) -> Tensor:
        reads = [d if isinstance(d, Tensor) else d.read for d in self.directions]
        R = torch.stack([_fitting(read, value, at) for read in reads]).double()
        W = torch.stack([_fitting(_write(d), value, at) for d in self.directions]).double()
        coordinates = (value.double() @ R.T) @ torch.linalg.pinv(W @ R.T)
        return (value.double() - coordinates @ W).to(value.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Freeze(BaseEdit):
    """Hold at what the unedited run of the same prompt has there. See `freeze`."""

    kind: ClassVar[str] = "freeze"
    needs_unedited: ClassVar[bool] = True

    def change(self, value: Tensor, at: At) -> Tensor:
        held = at.unedited(at.site)
        axis = _positions_axis(at)
        return held.narrow(axis, at.offset, held.shape[axis] - at.offset)


@dataclass(frozen=True, eq=False, repr=False)
class Patch(BaseEdit):
    """Take the value another run has there, position to position. See `patch`."""

    source: Any = None
    align: Mapping[int, int] | None = None
    kind: ClassVar[str] = "patch"

    def prepare(self, model: Model) -> "Patch":
        source = self.source
        if not isinstance(source, Recording | Mapping):
            source = model.run(source, capture=self.places(model.sites))
        if isinstance(source, Recording):
            if source.model.layout.sizes != model.layout.sizes:
                raise BadEdit(
                    "the source is a recording of another model", received=source.model.name, allowed=model.name
                )
            if source.offset:
                raise BadEdit("the source is a window over later positions", fix="record the whole prompt")
            source = {str(site): source[site] for site in self.places(model.sites)}
        return replace(self, source=source)

    def change(self, value: Tensor, at: At) -> Tensor:
        held: Tensor = at.mine(self.source[str(at.site)]).to(value)
        axis = _positions_axis(at)
        length = at.batch.ids.shape[1]
        align = self.align
        if align is None and self.pos is not None and held.shape[axis] != length and min(self.pos) >= 0:
            align = {p: p for p in self.pos}
        if align is not None and "key" not in at.site.kind.axes:
            return self._aligned(value, held, align, at)
        if held.shape[axis] != length or held.shape[0] not in (1, value.shape[0]):
            raise BadEdit(
                "the source's prompt is of another length",
                received=f"{tuple(held.shape)}",
                allowed=f"{length} positions",
                fix="say pos=, or align={to: from}",
            )
        return held.narrow(axis, at.offset, length - at.offset).expand_as(value)

    def _aligned(self, value: Tensor, held: Tensor, align: Mapping[int, int], at: At) -> Tensor:
        axis, length = _positions_axis(at), at.batch.ids.shape[1]
        new = value.clone()
        for to, source in align.items():
            if not 0 <= to < length or not 0 <= source < held.shape[axis]:
                raise UnknownPosition(
                    "the positions to patch are not all there",
                    received=f"{to} from {source}",
                    allowed=f"0 to {length - 1} from 0 to {held.shape[axis] - 1}",
                )
            if to >= at.offset:
                new.select(axis, to - at.offset).copy_(held.select(axis, source))
        return new

    def to_dict(self) -> dict[str, Any]:
        if isinstance(self.source, Recording):
            return self.prepare(self.source.model).to_dict()
        found = super().to_dict()
        return found | ({"align": {str(k): v for k, v in self.align.items()}} if self.align else {})


def ablate(site: str, to: str | Tensor = "zero", *, over: Any = None, **where: Index) -> Ablate:
    """Replace a site's value: by zero, by the `"mean"` over data (`over=` prompts or a recording), or by a tensor.

    >>> ablate("z.9", head=6)
    <ablate z.9 head 6>
    """
    return Ablate(str(site), to=to, over=over, **_where(where))


def scale(site: str, factor: float, **where: Index) -> Scale:
    """Multiply a site's value by `factor`."""
    return Scale(str(site), factor=float(factor), **_where(where))


def steer(site: str, direction: Direction | Tensor, strength: float, *, unit: str = "norm", **where: Index) -> Steer:
    """Add `strength` times the write vector at unit length; with `unit="sd"`, move the coordinate by that many sd."""
    return Steer(str(site), direction=direction, strength=float(strength), unit=unit, **_where(where))


def project_out(site: str, directions: Direction | Tensor | Sequence[Direction | Tensor], **where: Index) -> ProjectOut:
    """Remove the coordinates along one or several directions. Doing it twice changes nothing more."""
    several = (directions,) if isinstance(directions, Direction | Tensor) else tuple(directions)
    return ProjectOut(str(site), directions=several, **_where(where))


def freeze(site: str, **where: Index) -> Freeze:
    """Hold a site (`"norms"` and `"patterns"`: all of them) at what the unedited run of the same prompt has there."""
    return Freeze(str(site), **_where(where))


def patch(site: str, source: Any, *, align: Mapping[int, int] | None = None, **where: Index) -> Patch:
    """Take the value that `source` (a recording, or a prompt to run) has at the site; `align` maps positions {to: from}."""
    return Patch(str(site), source=source, align=align, **_where(where))


# ── JSON there and back ─────────────────────────────────────────────────────────────────────────────────────────


def to_json(edits: Sequence[BaseEdit]) -> str:
    """A list of edits as JSON; `from_json` gives edits that change runs in the same way."""
    return json.dumps([edit.to_dict() for edit in edits])


def from_json(text: str) -> tuple[BaseEdit, ...]:
    """Edits from `to_json`. Raises BadEdit, naming the entry that does not parse."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadEdit(
            "the edits are not JSON", received=str(error), allowed="what residscope.edits.to_json writes"
        ) from None
    if not isinstance(entries, list):
        raise BadEdit("the edits are not a list", received=type(entries).__name__, allowed="a JSON list of edits")
    return tuple(from_dict(entry) for entry in entries)


def from_dict(entry: Any) -> BaseEdit:
    """One edit from `to_dict`. Raises BadEdit where it does not parse, and what the edit itself refuses."""
    if not isinstance(entry, Mapping) or entry.get("kind") not in KINDS:
        kind = entry.get("kind") if isinstance(entry, Mapping) else entry
        raise BadEdit("no such kind of edit", received=repr(kind), allowed=", ".join(sorted(KINDS)))
    cls = KINDS[entry["kind"]]
    known = {f.name for f in fields(cls)}
    given = {name: from_plain(value) for name, value in entry.items() if name != "kind"}
    if extra := given.keys() - known:
        raise BadEdit(
            f"{cls.kind} does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(known))
        )
    if not isinstance(given.get("site"), str):
        raise BadEdit(f"{cls.kind} needs a site", received=repr(given.get("site")), allowed="such as resid_pre.6")
    if isinstance(given.get("directions"), list):
        given["directions"] = tuple(given["directions"])
    given |= _where({name: given[name] for name in _WHERE & given.keys()})
    if isinstance(given.get("align"), Mapping):
        given["align"] = {int(k): int(v) for k, v in given["align"].items()}
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise BadEdit(
            f"{cls.kind} does not parse", received=json.dumps(to_plain(dict(entry)))[:200], allowed=str(error)
        ) from None


def _where(given: Mapping[str, Any]) -> dict[str, Any]:
    """Heads, neurons and positions as tuples. Raises BadEdit for what is none of them, or not a whole number."""
    if extra := given.keys() - _WHERE:
        raise BadEdit(
            "an edit does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(_WHERE))
        )
    return {name: _index(index, name) for name, index in given.items()}


def _index(given: Any, name: str) -> tuple[int, ...] | None:
    if given is None:
        return None
    found = (given,) if isinstance(given, int) and not isinstance(given, bool) else given
    if isinstance(found, str | bool) or not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        raise BadEdit(
            f"{name} is a whole number or a list of them", received=f"{name}={given!r}", allowed="such as 3 or [1, 4]"
        )
    return tuple(found)


def _along(value: Tensor, axis: int, index: tuple[int, ...]) -> Bool[Tensor, "..."]:
    mask = torch.zeros(value.shape[axis], dtype=torch.bool, device=value.device)
    mask[list(index)] = True
    return mask.view([-1 if i == axis else 1 for i in range(value.ndim)])


def _number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadEdit(f"{name} is a number", received=f"{name}={value!r}", allowed="a finite number")


def _write(direction: Any) -> Tensor:
    if not isinstance(direction, Direction | Tensor):
        raise BadEdit("not a direction", received=repr(direction)[:80], allowed="a Direction or a vector")
    return direction if isinstance(direction, Tensor) else direction.write


def _readable(direction: Direction) -> bool:
    """Whether moving along write changes what read reads."""
    overlap = float(direction.read.double() @ direction.write.double())
    return abs(overlap) > 1e-6 * float(direction.read.double().norm() * direction.write.double().norm())


def _fitting(vector: Tensor, value: Tensor, at: At) -> Tensor:
    if vector.ndim != 1 or len(vector) != value.shape[-1]:
        raise WrongWidth(
            f"the direction does not fit {at.site}",
            received=f"shape {tuple(vector.shape)}",
            allowed=f"({value.shape[-1]},)",
        )
    return vector.to(value.device)


def _positions_axis(at: At) -> int:
    axes = at.site.kind.axes
    return axes.index("query" if "query" in axes else "pos")
