"""The views that are read: table, text, the card of a claim, and the grid that holds any of the kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from residscope.views.view import Cells, Value, View, names, same_length, values


@dataclass(frozen=True)
class Table(View):
    """Rows of text and numbers under named columns.

    >>> Table(["layer", "flip rate"], [[6, 0.5], [7, None]]).rows
    ((6, 0.5), (7, None))
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Cells]
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        self._set(columns=names(self, "columns", self.columns))
        self._set(rows=tuple(values(self, f"row {i}", row) for i, row in enumerate(self.rows)))
        for i, row in enumerate(self.rows):
            same_length(self, columns=self.columns, **{f"row {i}": row})
        self._strings("title", "note")


@dataclass(frozen=True)
class Text(View):
    """Paragraphs under a title."""

    kind: ClassVar[str] = "text"
    title: str
    paragraphs: Sequence[str] = ()

    def __post_init__(self) -> None:
        one = isinstance(self.paragraphs, str)
        self._set(paragraphs=names(self, "paragraphs", [self.paragraphs] if one else self.paragraphs))
        self._strings("title")


@dataclass(frozen=True)
class Card(View):
    """A claim with what was measured for it, and whether it held; failed evidence shows as plainly as passed.

    >>> Card("name movers carry it", {"effect": -2.45, "unit": "logits"}, verdict="passed").fields["effect"]
    -2.45
    """

    kind: ClassVar[str] = "card"
    title: str
    fields: Mapping[str, Value]
    verdict: Literal["passed", "failed"] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        named = isinstance(self.fields, Mapping)
        self.require(named, "its fields have no names", type(self.fields).__name__, "a dict of name to value")
        checked = values(self, "fields", list(self.fields.values()))
        self._set(fields=dict(zip(map(str, self.fields), checked, strict=True)))
        known = self.verdict in ("passed", "failed", None)
        self.require(known, "its verdict is unknown", self.verdict, '"passed", "failed" or None')
        self._strings("title", "note")


@dataclass(frozen=True)
class Grid(View):
    """Views side by side, `columns` to a row where there is room."""

    kind: ClassVar[str] = "grid"
    views: Sequence[View]
    columns: int = 2
    title: str = ""

    def __post_init__(self) -> None:
        self._set(views=tuple(self.views))
        for view in self.views:
            self.require(isinstance(view, View), "it holds something that is no view", type(view).__name__, "views")
        whole = isinstance(self.columns, int) and 1 <= self.columns <= 12
        self.require(whole, "it has no such number of columns", self.columns, "1 to 12")
        self._strings("title")
