"""What all edits share: where they act, which of a value's entries they are meant for, and how their parts are checked."""

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Annotated, Any, ClassVar, TypedDict

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope import fields as asked
from residscope.directions import Direction
from residscope.engine.protocols import At, Edit
from residscope.errors import BadEdit, NotPlain, SiteError, UnknownPosition, WrongWidth
from residscope.json_values import field_to_plain
from residscope.model.sites import Site, SiteTable, positions_axis

KINDS: dict[str, type["BaseEdit"]] = {}
Index = int | Sequence[int] | None
WHERE = {"head", "kv_head", "neuron", "pos"}


class Where(TypedDict, total=False):
    """Which of a site's heads, neurons and positions an edit is meant for; all of them unless said."""

    head: Annotated[Index, asked.heads()]
    kv_head: Annotated[Index, asked.heads(axis="kv_head", title="KV head")]
    neuron: Annotated[Index, asked.heads(axis="neuron")]
    pos: Annotated[Index, asked.positions(named=True, live=True, title="positions")]


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
class BaseEdit(Edit):
    """What all edits share: where they act. A kind of edit is a subclass with a `kind` and a `change`."""

    site: str
    head: tuple[int, ...] | None = None
    kv_head: tuple[int, ...] | None = None
    neuron: tuple[int, ...] | None = None
    pos: tuple[int, ...] | None = None

    kind: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("kind"):  # not one that it inherits, which stays its parent's
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

    def fits(self, table: SiteTable) -> None:
        """Raise where what the edit is made of does not fit its sites: a vector of another width, for one."""

    @property
    def idle(self) -> str | None:
        """Why it changes nothing wherever it acts, in words; None where it may."""
        return None

    @property
    def replaces(self) -> bool:
        """Whether nothing of the value that it meets is left."""
        return False

    @property
    def everywhere(self) -> bool:
        """Whether it is meant for all heads, neurons and positions."""
        return self.head is self.kv_head is self.neuron is self.pos is None

    def kept_to(self, pos: tuple[int, ...]) -> "BaseEdit":
        return replace(self, pos=pos)

    def apply(self, value: Tensor, at: At) -> Tensor:
        new = self.change(value, at).to(value.dtype)
        chosen = self.chosen(value, at)
        return new if chosen is None else torch.where(chosen, new, value)

    def chosen(self, value: Tensor, at: At) -> Bool[Tensor, "..."] | None:
        """Which entries the edit is meant for; None for all."""
        axes, mask = at.site.kind.axes, at_positions(self.pos, value, at)
        for axis, index in (("head", self.head), ("kv_head", self.kv_head), ("d_mlp", self.neuron)):
            if index is not None:
                own = along(value, axes.index(axis), index)
                mask = own if mask is None else mask & own
        return mask

    @property
    def label(self) -> str:
        """A few words: `ablate z.23 head 3`."""
        parts = [self.kind, self.site]
        where = {"head": self.head, "kv_head": self.kv_head, "neuron": self.neuron, "pos": self.pos}
        for name, index in where.items():
            if index is not None:
                parts.append(f"{name} {', '.join(map(str, index))}")
        return " ".join(parts)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Plain JSON values; tensors as base64 with their sha256, or, in `tensors`, once each by their sha256.

        Raises:
            BadEdit: a field without a form in JSON, by its name; a class without a `kind` of its own.
        """
        if KINDS.get(self.kind) is not type(self):
            raise BadEdit(
                f"{type(self).__qualname__} is no kind of edit, so nothing could read it again",
                received=self.label,
                allowed=", ".join(sorted(KINDS)),
                fix="give the class a `kind` of its own; several edits together are written by edits.to_json",
            )
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        unsaid = {f.name for f in fields(self) if f.default is None and parts[f.name] is None}
        try:
            return {"kind": self.kind} | {
                name: field_to_plain(part, tensors, name=f"{name} of {self.label}")
                for name, part in parts.items()
                if name not in unsaid
            }
        except NotPlain as error:
            raise BadEdit(error.failed, received=error.received, allowed=error.allowed) from None

    def __repr__(self) -> str:
        return f"<{self.label}>"


def indices(given: Mapping[str, Any]) -> dict[str, Any]:
    """Heads, neurons and positions as tuples. Raises BadEdit for what is none of them, or not a whole number."""
    if extra := given.keys() - WHERE:
        raise BadEdit(
            "an edit does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(WHERE))
        )
    return {name: whole_numbers(index, name) for name, index in given.items()}


def of_head(site: str, parts: Sequence[Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """`where`, with the head that directions or a dictionary belong to where no other is said: they are for its vectors alone.

    Raises:
        BadEdit: directions of several heads.
    """
    heads = {part.head for part in parts if getattr(part, "head", None) is not None}
    with suppress(SiteError):
        if heads and where.get("head") is None and "head" in Site.parse(site).kind.axes:
            if len(heads) > 1:
                received = f"heads {', '.join(map(str, sorted(heads)))}"
                raise BadEdit(
                    "the directions belong to several heads", received=received, fix="say head=, or edit each"
                )
            return {**where, "head": heads.pop()}
    return dict(where)


def whole_numbers(given: Any, name: str) -> tuple[int, ...] | None:
    """One whole number or several as a tuple; None stays. Raises BadEdit."""
    if given is None:
        return None
    numbers = (given,) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(numbers, list | tuple | range) or not all(
        isinstance(i, int) and not isinstance(i, bool) for i in numbers
    ):
        raise BadEdit(
            f"{name} is a whole number or a list of them", received=f"{name}={given!r}", allowed="such as 3 or [1, 4]"
        )
    return tuple(numbers)


def along(value: Tensor, axis: int, index: tuple[int, ...]) -> Bool[Tensor, "..."]:
    mask = torch.zeros(value.shape[axis], dtype=torch.bool, device=value.device)
    mask[list(index)] = True
    return mask.view([-1 if i == axis else 1 for i in range(value.ndim)])


def at_positions(pos: tuple[int, ...] | None, value: Tensor, at: At) -> Bool[Tensor, "..."] | None:
    """Which entries stand at these positions, negative ones counted from each row's own end; None for all."""
    if pos is None:
        return None
    axis = positions_axis(at.site)
    rows = torch.zeros(value.shape[0], value.shape[axis], dtype=torch.bool, device=value.device)
    for row, length in enumerate(at.batch.lengths):
        for p in pos:
            place = p + length if p < 0 else p
            if not 0 <= place < length:
                raise UnknownPosition(
                    f"the prompt has {length} tokens", received=f"pos={p}", allowed=f"{-length} to {length - 1}"
                )
            if place >= at.offset:
                rows[row, place - at.offset] = True
    shape = [1] * value.ndim
    shape[0], shape[axis] = rows.shape
    return rows.view(shape)


def prompt_of(row: int, at: At) -> int:
    """Which of the run's prompts a row stands for."""
    return row if at.rows is None else at.rows[row]


def require_whole(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadEdit(f"{name} is a whole number", received=f"{name}={value!r}", allowed="0, 1, 2 ...")


def as_number(value: Any) -> Any:
    """A float of anything that is one number (also of numpy's or torch's); what is none goes on, to be refused."""
    try:
        return value if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def require_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadEdit(f"{name} is a number", received=f"{name}={value!r}", allowed="a finite number")


def write_of(direction: Any) -> Tensor:
    if not isinstance(direction, Direction | Tensor):
        raise BadEdit("not a direction", received=repr(direction)[:80], allowed="a Direction or a vector")
    return direction if isinstance(direction, Tensor) else direction.write


def reads_own_write(direction: Direction) -> bool:
    """Whether moving along write changes what read reads."""
    overlap = float(direction.read.double() @ direction.write.double())
    return abs(overlap) > 1e-6 * float(direction.read.double().norm() * direction.write.double().norm())


def require_width(vectors: Sequence[Any], sites: Sequence[Site], table: SiteTable, *, flat: bool = False) -> None:
    """Refuse directions of another width than their sites'. flat: of all heads' vectors end to end. Raises WrongWidth."""
    for site in sites:
        width = table.width(site) * ((table.size(site, site.kind.axes[-2]) or 1) if flat else 1)
        for vector in vectors:
            have = len(vector if isinstance(vector, Tensor) else vector.read)
            if width and have != width:
                raise WrongWidth(
                    f"the direction does not fit {site}", received=f"width {have}", allowed=f"width {width}"
                )


def fitting(vector: Tensor, value: Tensor, at: At) -> Tensor:
    if vector.ndim != 1 or len(vector) != value.shape[-1]:
        raise WrongWidth(
            f"the direction does not fit {at.site}",
            received=f"shape {tuple(vector.shape)}",
            allowed=f"({value.shape[-1]},)",
        )
    return vector.to(value.device)
