"""What a service called features, and how well each name foretells where its feature is active."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from residscope.directions import Dictionary, Direction
from residscope.engine.model import Model
from residscope.errors import DirectionError
from residscope.features.atlas import Atlas
from residscope.reports import Record, Report
from residscope.views import Table, View

if TYPE_CHECKING:
    import pandas

COLUMNS = ("feature", "name", "right", "from", "to", "with others' names", "better", "note")


@dataclass(frozen=True, eq=False)
class FeatureName(Record):
    """One feature's name and its test on n held-out contexts, in half of which the feature is active.

    right: the share of them told rightly by the name, which is the balanced accuracy, the halves being equally many: one half is
    guessing. interval: 95 %, Wilson's. shuffled: the same with names of other features in its place; gap: right - shuffled, with
    a bootstrap over the contexts. better: whether all of the gap's interval is above zero; None where nothing could be tested,
    which `note` says why. name: empty where none was given.
    """

    kind: ClassVar[str] = "feature_name"
    index: int
    label: str
    name: str
    n: int = 0
    right: float | None = None
    interval: tuple[float, float] | None = None
    shuffled: float | None = None
    gap: tuple[float, float, float] | None = None
    better: bool | None = None
    note: str = ""

    @property
    def said(self) -> str:
        """How it did, in a sentence."""
        if self.right is None or self.interval is None:
            return self.note or "not tested"
        low, high = self.interval
        words = f"right in {self.right:.0%} of {self.n} held-out contexts (95 %: {low:.0%} to {high:.0%})"
        if self.shuffled is None:
            return f"{words}; {self.note}" if self.note else words
        end = "better than" if self.better else "no better than"
        return f"{words}, {end} other features' names, {self.shuffled:.0%}"


@dataclass(frozen=True, eq=False, repr=False)
class FeatureNames(Report):
    """Names of some of an atlas' features. hash: the dictionary's, empty of a site's own dimensions."""

    kind: ClassVar[str] = "report:feature_names"
    of: str
    place: str
    hash: str
    rows: tuple[FeatureName, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> dict[int, str]:
        """Those that foretell better than other features' names do, by the feature's number."""
        return {row.index: row.name for row in self.rows if row.better}

    def row(self, index: int) -> FeatureName:
        """Raises DirectionError for a feature that is not among them."""
        for row in self.rows:
            if row.index == index:
                return row
        known = ", ".join(str(row.index) for row in self.rows[:20])
        raise DirectionError(f"no name was asked of this {self.of}", received=str(index), allowed=known)

    def direction(
        self, index: int, model: Model, atlas: Atlas, dictionary: Dictionary | None = None
    ) -> tuple[Direction, str]:
        """A feature as a direction under its name, and what is to be said of it: what a library keeps.

            direction, description = names.direction(12, model, atlas, sae)
            rs.open_library().save(direction, model=model, user="ada", description=description)

        Raises:
            DirectionError: no name was asked of it, or none was given. WrongModel.
        """
        row = self.row(index)
        if not row.name:
            raise DirectionError("the feature has no name", received=row.label, fix=row.note or None)
        found = atlas.direction(index, dictionary, model)
        return replace(found, name=row.name), f"{row.name}\n\nNamed by {self.by}: {row.said}."

    @property
    def by(self) -> str:
        """Who was asked."""
        return str(self.provenance.get("endpoint model", "a service"))

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row for each feature."""
        import pandas

        return pandas.DataFrame(self._cells(), columns=[*COLUMNS])

    def view(self) -> View:
        """The table; a share of one half is what guessing gives."""
        better, tested = sum(bool(row.better) for row in self.rows), sum(row.better is not None for row in self.rows)
        note = (
            f"Right: the share of held-out contexts, half of them active, that the name tells rightly; guessing gives 0.5. "
            f"{better} of {tested} tested names do better than other features' names. Asked: {self.by}."
        )
        return Table([*COLUMNS], self._cells(), title=f"Names of {self.of} at {self.place}", note=note)

    def _cells(self) -> list[list[Any]]:
        words = {True: "yes", False: "no", None: "–"}
        return [
            [
                row.label, row.name, row.right, *(row.interval or (None, None)), row.shuffled, words[row.better],
                row.note,
            ]
            for row in self.rows
        ]  # fmt: skip

    def __repr__(self) -> str:
        better = sum(bool(row.better) for row in self.rows)
        return f"FeatureNames({len(self)} of {self.of} at {self.place}, {better} better than others' names)"
