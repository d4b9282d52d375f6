"""Tokens where they stand: lines of a text, one below the other, on one scale of colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from residscope.views.pictures import Scale, check_scale
from residscope.views.view import Cells, Labels, Numbers, Part, View, names, numbers, same_length, values


@dataclass(frozen=True)
class Context(Part):
    """One line: its tokens with their values, which of them it is about (`at`, if any), and what else is told of it."""

    tokens: Labels
    values: Numbers
    at: int | None = None
    cells: Cells = ()

    def __post_init__(self) -> None:
        self._set(tokens=names(self, "tokens", self.tokens), values=numbers(self, "values", self.values))
        self._set(cells=values(self, "cells", self.cells))
        same_length(self, tokens=self.tokens, values=self.values)
        whole = self.at is None or (isinstance(self.at, int) and 0 <= self.at < max(1, len(self.tokens)))
        self.require(
            whole, "it is about a token that it does not have", self.at, f"0 to {len(self.tokens) - 1}, or None"
        )


@dataclass(frozen=True)
class Contexts(View):
    """Lines of text, each token on the colour of its value; `columns` name what is told of each line, before it.

    All lines are on one scale: `scale` and `limit` as in a heat map.

    >>> Contexts([Context(["The", " cat"], [0.0, 1.5], at=1, cells=[1.5])], columns=["activation"]).kind
    'contexts'
    """

    kind: ClassVar[str] = "contexts"
    rows: Sequence[Context]
    columns: Sequence[str] = ()
    title: str = ""
    unit: str = ""
    scale: Scale = "diverging"
    limit: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self._set(rows=tuple(self.rows), columns=names(self, "columns", self.columns))
        for row in self.rows:
            self.require(isinstance(row, Context), "it has a row of another kind", type(row).__name__, "views.Context")
            same_length(self, columns=self.columns, cells=row.cells)
        check_scale(self, self.scale, self.limit)
        self._strings("title", "unit", "note")
