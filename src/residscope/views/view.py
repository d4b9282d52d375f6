"""What every view has: a kind, plain JSON, and the checks of its parts."""

import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_type_hints

from residscope.endings import check_ending
from residscope.errors import BadView

Value = str | float | int | bool | None


@dataclass(frozen=True)
class Plain:
    """What a field is in `to_dict`, where more than that is taken when it is made."""

    type: Any


Numbers = Annotated[Any, Plain(Sequence[float | None])]
"""Numbers in one row: a list, or a numpy array or tensor. None and NaN are values that are not known."""

Grid2D = Annotated[Any, Plain(Sequence[Sequence[float | None]])]
"""Numbers in rows of equal length: nested lists, or a numpy array or tensor of two axes."""

Labels = Annotated[Sequence[Any], Plain(Sequence[str])]
"""Labels: strings, or numbers, which are written out."""

Cells = Annotated[Sequence[Any], Plain(Sequence[Value])]
"""One row of a table."""

_SHORTEST = {"float32": range(6, 10), "float16": (5,), "bfloat16": (5,)}
"""Significant digits that tell two numbers of that precision apart; more would only make files larger."""


class Part:
    """Data that checks itself: a view, or what a view is made of."""

    def _set(self, **parts: Any) -> None:
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def _strings(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self.require(isinstance(value, str), f"{name} is not text", repr(value), "a string")

    def require(self, holds: bool, failed: str, received: Any, allowed: str, fix: str | None = None) -> None:
        if not holds:
            raise BadView(
                f"this {type(self).__name__} cannot be drawn: {failed}", received=received, allowed=allowed, fix=fix
            )

    @classmethod
    def plain_types(cls) -> dict[str, Any]:
        """The type of each of its fields in `to_dict`, as `views.schema` reads it."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in fields(cls)}  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        return plain({f.name: getattr(self, f.name) for f in fields(self)})  # type: ignore[arg-type]


# who writes a view, by the ending of the file's name, and who shows it in a notebook: what writes views says so itself
WRITERS: "dict[str, Callable[[View, str | os.PathLike[str]], object]]" = {}
SHOWN: "list[Callable[[View], str]]" = []


class View(Part):
    """A picture as plain data: `kind` names which, `to_dict` is all of it as JSON."""

    kind: ClassVar[str]
    title: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON. What is not finite is null; `infinite` tells where it was inf or -inf, by path.

        >>> from residscope.views import TokenStrip
        >>> strip = TokenStrip(["a", "b", "c"], [1.0, float("nan"), float("-inf")]).to_dict()
        >>> strip["values"], strip["infinite"]
        ([1.0, None, None], {'values.2': '-inf'})
        """
        return {"kind": self.kind} | super().to_dict()

    def save(self, path: str | os.PathLike[str]) -> None:
        """A page of it (`x.html`), or a figure (`x.png`, `x.svg`, `x.pdf`). Raises WrongEnding, FileNotThere."""
        WRITERS[check_ending(path, "picture", called="view")](self, path)

    def _repr_html_(self) -> str:
        return SHOWN[0](self)


PlainView = Annotated[dict[str, Any], Plain(View)]
"""What `View.to_dict` gives."""


def plain(parts: Mapping[str, Any]) -> dict[str, Any]:
    infinite: dict[str, str] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Part):
            return value.to_dict()
        if isinstance(value, float) and not math.isfinite(value):
            if math.isinf(value):
                infinite[path] = "inf" if value > 0 else "-inf"
            return None
        if isinstance(value, Mapping):
            return {str(key): walk(v, f"{path}.{key}") for key, v in value.items()}
        if isinstance(value, tuple | list):
            return [walk(v, f"{path}.{i}") for i, v in enumerate(value)]
        return value

    in_json = {name: walk(value, name) for name, value in parts.items()}
    return in_json | ({"infinite": infinite} if infinite else {})


def numbers(view: Part, name: str, given: Numbers) -> tuple[float, ...]:
    """One row of numbers; None becomes NaN."""
    digits, items = _unpack(given)
    view.require(
        _is_list(items), f"{name} is not a row of numbers", _short(given), "a list, array or tensor of one axis"
    )
    return tuple(_number(view, name, item, digits) for item in items)


def rows_of_numbers(view: Part, name: str, given: Grid2D) -> tuple[tuple[float, ...], ...]:
    digits, items = _unpack(given)
    two_axes = "nested lists, or an array or tensor of two axes"
    view.require(_is_list(items), f"{name} has no rows", _short(given), two_axes)
    rows = []
    for row in items:
        own, inner = _unpack(row)
        view.require(_is_list(inner), f"{name} has a row that is no list", _short(row), two_axes)
        rows.append(tuple(_number(view, name, item, own or digits) for item in inner))
    widths = sorted({len(row) for row in rows})
    view.require(len(widths) < 2, f"{name} has rows of unequal length", f"lengths {widths}", "one length")
    return tuple(rows)


def names(view: Part, name: str, given: Sequence[Any]) -> tuple[str, ...]:
    """Labels as strings; numbers are written out."""
    _, items = _unpack(given)
    listed = _is_list(items) and not isinstance(given, str)
    view.require(listed, f"{name} is not a list of labels", _short(given), "a list of strings or numbers")
    items = [_unpack(item)[1] for item in items]
    for item in items:
        view.require(isinstance(item, str | int | float), f"{name} has a label that is no text", repr(item), "strings")
    return tuple(item if isinstance(item, str) else f"{item:g}" for item in items)


def values(view: Part, name: str, given: Sequence[Any]) -> tuple[Value, ...]:
    """Cells of a table."""
    _, items = _unpack(given)
    view.require(_is_list(items), f"{name} is no list", _short(given), "a list of text and numbers")
    unpacked = [_unpack(item)[1] for item in items]
    for item in unpacked:
        fits = item is None or isinstance(item, str | int | float)
        view.require(
            fits, f"{name} has a cell that is neither text nor a number", _short(item), "str, int, float, None"
        )
    return tuple(unpacked)


def same_length(view: Part, **lists: Sequence[Any]) -> None:
    lengths = {name: len(items) for name, items in lists.items()}
    sizes = ", ".join(f"{name} {n}" for name, n in lengths.items())
    view.require(len(set(lengths.values())) < 2, "its parts have unequal lengths", sizes, "one length")


def same_shape(view: Part, name: str, grid: Sequence[Sequence[Any]], n_rows: int, n_columns: int) -> None:
    fits = len(grid) == n_rows and all(len(row) == n_columns for row in grid)
    got = f"{len(grid)} x {len(grid[0]) if grid else 0}"
    view.require(fits, f"{name} is not rows x columns", got, f"{n_rows} x {n_columns}, as the labels say")


def interval(view: Part, low: Sequence[float] | None, high: Sequence[float] | None) -> None:
    both = (low is None) == (high is None)
    view.require(both, "an interval has one end only", "low or high alone", "both or neither")
    if low is not None and high is not None:
        same_length(view, low=low, high=high)
        crossed = [i for i, (a, b) in enumerate(zip(low, high, strict=True)) if a > b]
        view.require(not crossed, "low is above high", f"at {crossed[:5]}", "low <= high")


def _unpack(given: Any) -> tuple[Sequence[int], Any]:
    dtype = str(getattr(given, "dtype", "")).removeprefix("torch.")
    digits = _SHORTEST.get(dtype, ())
    return digits, given.tolist() if hasattr(given, "tolist") else given


def _is_list(items: Any) -> bool:
    return isinstance(items, Sequence) and not isinstance(items, str | bytes)


def _number(view: Part, name: str, item: Any, digits: Sequence[int]) -> float:
    own, item = _unpack(item)
    if item is None:
        return math.nan
    view.require(
        isinstance(item, int | float), f"{name} has something that is no number", _short(item), "numbers, None"
    )
    return _rounded(float(item), own or digits)


def _rounded(x: float, digits: Sequence[int]) -> float:
    if not digits or not math.isfinite(x):
        return x
    tries = (float(f"{x:.{n}g}") for n in digits)
    return next((short for short in tries if len(digits) == 1 or _single(short) == x), x)


def _single(x: float) -> float:
    single: float = struct.unpack("f", struct.pack("f", x))[0]
    return single


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
