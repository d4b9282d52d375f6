"""What the attribution of a score answers with, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table

MAP, PAIRS = 20, 30


@dataclass(frozen=True, eq=False, repr=False)
class ScoreAttribution(Report):
    """One attention score, before its cap and the softmax, as a sum over pairs of what was written.

        score = sum over s, s' of terms[s, s']          terms[s, s'] = scale q_s . k_s'

    terms: over what was written where the query stands, and where the key stands; "bias" is what query or key is of nothing at
    all. score: the run's own. slope: what the model adds for the distance alone (ALiBi), which is in neither. capped: what its
    cap makes of the score; None where it has none. error: how far the sum is from the score. tokens: at query and key.
    """

    kind: ClassVar[str] = "report:score_attribution"
    main: ClassVar[str] = "terms"
    terms: Result
    score: float
    error: float
    tokens: tuple[str, str]
    slope: float = 0.0
    capped: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def top(self, k: int = 10) -> list[tuple[str, str, float]]:
        """The pairs that add or take away most: what the query side reads, what the key side, and the term."""
        values = self.terms.values
        order = values.abs().flatten().argsort(descending=True, stable=True)[:k]
        names = self.terms.coords["query"], self.terms.coords["key"]
        places = [divmod(int(i), values.shape[1]) for i in order]
        return [(str(names[0][a]), str(names[1][b]), float(values[a, b])) for a, b in places]

    def view(self) -> Grid:
        """The rows and columns that matter most as a map; the strongest pairs."""
        values = self.terms.values
        rows, columns = (_largest(values.abs().sum(axis)) for axis in (1, 0))
        names = self.terms.coords["query"], self.terms.coords["key"]
        shown = values[rows][:, columns]
        query, key = self.tokens
        rest = float(values.sum() - shown.sum())
        title = f"{self.provenance.get('head', 'A head')}: {query!r} to {key!r}"
        note = f"All terms sum to {float(values.sum()):.4g}; the score is {self.score:.4g}. Not shown: {rest:.3g}."
        note += f" The model adds {self.slope:.4g} for the distance." if self.slope else ""
        note += f" Its cap makes {self.capped:.4g} of it." if self.capped is not None else ""
        drawn = HeatMap(
            shown, [str(names[0][i]) for i in rows], [str(names[1][i]) for i in columns], title=title, note=note,
            row_title=f"at the query {query!r}", column_title=f"at the key {key!r}", unit="score",
        )  # fmt: skip
        pairs = Table(
            ["query side", "key side", "adds"], [[*pair] for pair in self.top(PAIRS)], title="Strongest pairs"
        )
        return Grid([drawn, pairs], columns=1, title=title)

    def __repr__(self) -> str:
        rows, columns = self.terms.values.shape
        return f"ScoreAttribution({self.score:.4g} as {rows} x {columns} terms; off by {self.error:.2g})"


def _largest(size: Any) -> list[int]:
    """The places of the largest, in order."""
    return sorted(size.argsort(descending=True, stable=True)[:MAP].tolist())
