"""Rows as the tables have them: each value of its column's type, and what the types do not say.

A backup, and SQLite, which keeps anything in any column, may hold others.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

from sqlalchemy import JSON, Column, Float, Integer, LargeBinary, String, Table

from residscope.directions import SPACES
from residscope.errors import SiteError
from residscope.incoming import Unreadable, parsed
from residscope.model.sites import Site

LAST = 253_402_300_799_000_000  # microseconds: the end of the year 9999
WHOLE = 2**63


def problems(table: Table, row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a row, by column; its JSON may be text."""
    for name in row.keys() - table.c.keys():
        yield f"there is no column {str(name)[:80]!r}"
    for column in table.c:
        value = row.get(column.name)
        if value is None:
            if not column.nullable and not column.primary_key and column.default is None and column.name in row:
                yield f"{column.name} is missing"
            continue
        try:
            _check(table.name, column, value)
        except (Unreadable, SiteError, TypeError, ValueError) as error:
            yield f"{column.name} {error}"


def _check(table: str, column: Column[Any], value: Any) -> None:
    for kind, check in _KINDS:
        if isinstance(column.type, kind):
            check(value, getattr(column.type, "length", None))
            break
    if column.name == "at" or column.name.endswith("_at"):
        _within(value, 0, LAST)
    if (own := _OWN.get((table, column.name))) is not None:
        own(value)


def _text(value: Any, most: int | None) -> None:
    if not isinstance(value, str):
        raise TypeError(f"is a {type(value).__name__}, not a text")
    value.encode()
    if "\0" in value or (most is not None and len(value) > most):
        raise ValueError("is too long a text, or one with NUL")


def _whole(value: Any, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= WHOLE:
        raise TypeError(f"is no whole number of 64 bits: {str(value)[:40]}")


def _number(value: Any, most: int | None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise TypeError(f"is no finite number: {str(value)[:40]}")


def _bytes(value: Any, most: int | None) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"is a {type(value).__name__}, not bytes")


def _mapping(value: Any, most: int | None) -> None:
    told = parsed(value, own=True) if isinstance(value, str) else value
    if not isinstance(told, dict):
        raise TypeError(f"is a {type(told).__name__}, not a mapping")


def _within(value: Any, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"is {str(value)[:40]}, not {low} to {high}")


def _one_of(*allowed: Any) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"is {str(value)[:40]!r}, none of {', '.join(map(str, allowed))}")

    return check


def _sha256(value: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"is no sha256: {value[:80]!r}")


def _signature(value: bytes) -> None:
    if len(value) % 4:
        raise ValueError(f"is no row of float32: {len(value)} bytes")


def _site(value: str) -> None:
    Site.parse(value)


_KINDS: tuple[tuple[Any, Callable[[Any, int | None], None]], ...] = (
    (JSON, _mapping), (LargeBinary, _bytes), (String, _text), (Integer, _whole), (Float, _number),
)  # fmt: skip
_OWN: dict[tuple[str, str], Callable[[Any], None]] = {
    ("tensors", "sha256"): _sha256,
    ("directions", "tensors"): _sha256,
    ("directions", "site"): _site,
    ("directions", "space"): _one_of(*SPACES),
    ("directions", "head"): lambda value: _within(value, 0, 999_999),
    ("models", "signature"): _signature,
    ("votes", "value"): _one_of(1, -1),
    ("events", "kind"): _one_of("direction", "description", "comment"),
}
