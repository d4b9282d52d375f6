"""The text itself as a statistic: the ids of its rows, so that every example can be read where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics import Partial
from residscope.engine.model import Model
from residscope.reports import Record


@dataclass(frozen=True, eq=False)
class TextRows(Record):
    """The rows of a text one after the other, and where each begins: row r is ids[starts[r] : starts[r + 1]]."""

    kind: ClassVar[str] = "text_rows"
    ids: Int[Tensor, " token"]
    starts: Int[Tensor, " row"]

    def row(self, number: int) -> list[int]:
        """The ids of one row."""
        end = int(self.starts[number + 1]) if number + 1 < len(self.starts) else len(self.ids)
        found: list[int] = self.ids[int(self.starts[number]) : end].tolist()
        return found


@dataclass(frozen=True, eq=False)
class Rows:
    """`TextRows`, read along with the statistics of a site."""

    site: str
    name: ClassVar[str] = "rows of the text"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"kind": "rows"}

    def check(self, model: Model) -> None:
        """Every text has rows."""

    def start(self, model: Model) -> Partial:
        return {"ids": torch.empty(0, dtype=torch.int32), "lengths": torch.empty(0, dtype=torch.int64)}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        real = chunk.record.batch.real
        partial["ids"] = torch.cat([partial["ids"], chunk.record.tokens[real].int().cpu()])
        partial["lengths"] = torch.cat([partial["lengths"], torch.tensor(chunk.record.lengths)])

    def merge(self, first: Partial, second: Partial) -> Partial:
        return {name: torch.cat([first[name], second[name]]) for name in first}

    def finish(self, partial: Partial, model: Model) -> TextRows:
        return TextRows(partial["ids"], partial["lengths"].cumsum(0) - partial["lengths"])
