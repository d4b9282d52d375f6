"""How a training goes: FVU, features active and features dead, over the tokens that were read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Table

MEASURES = {"fvu": "fraction of variance unexplained", "l0": "features active at a token", "dead": "share that is dead"}


@dataclass(frozen=True, eq=False, repr=False)
class Training(Report):
    """Curves of a training, a row for each dictionary of `names`; each point is the mean over the batches since the last.

    tokens: how many had been learned from at each point, of `budget`.
    """

    kind: ClassVar[str] = "report:sae_training"
    main: ClassVar[str | None] = "last"
    names: tuple[str, ...]
    tokens: Float[Tensor, " point"]
    fvu: Float[Tensor, "dictionary point"]
    l0: Float[Tensor, "dictionary point"]
    dead: Float[Tensor, "dictionary point"]
    budget: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Result:
        """FVU, L0 and dead share of each dictionary, at the last point."""
        columns = [getattr(self, name)[:, -1] for name in MEASURES]
        return Result(
            torch.stack(columns, 1), ("dictionary", "measure"), name="measured", unit="each measure's own",
            coords={"dictionary": self.names, "measure": tuple(MEASURES)}, provenance=dict(self.provenance),
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """How long it took, since it was begun or went on."""
        return float(self.provenance.get("seconds", 0.0))

    @property
    def speed(self) -> float:
        """Tokens a second, over all the dictionaries together."""
        return float(self.provenance.get("tokens/s", 0.0))

    def curve(self, measure: str) -> Curve:
        values = getattr(self, measure)
        lines = [Line(name, values[i].tolist()) for i, name in enumerate(self.names)]
        return Curve(
            self.tokens.tolist(), lines, title=MEASURES[measure].capitalize(), x_title="tokens", y_title=measure
        )

    def view(self) -> Grid:
        rows: list[Sequence[Any]] = [
            [name, *(float(getattr(self, measure)[i, -1]) for measure in MEASURES)] for i, name in enumerate(self.names)
        ]
        done = int(self.tokens[-1]) if len(self.tokens) else 0
        note = f"{done:,} of {self.budget:,} tokens in {self.seconds:,.0f} s"
        table = Table(["dictionary", "FVU", "L0", "dead"], rows if done else [], title="Now", note=note)
        curves = [self.curve(measure) for measure in MEASURES] if done else []
        return Grid([*curves, table], columns=2, title="Training")

    def __repr__(self) -> str:
        done = int(self.tokens[-1]) if len(self.tokens) else 0
        best = f", FVU {float(self.fvu[:, -1].min()):.3f} at best" if done else ""
        return f"Training({len(self.names)} dictionaries, {done:,} of {self.budget:,} tokens{best})"
