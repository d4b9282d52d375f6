"""Vectors of a text at several sites, endlessly and from one pass: what a training is fed."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.corpus.reading import LENGTH, Reader, Row
from residscope.engine.model import Model
from residscope.engine.sinks import kept, streams
from residscope.model.sites import Site
from residscope.progress import Cancel, Tell, asking
from residscope.sae.training.group import ALONE, Group

ROWS = 16  # of a run
WINDOW = 16  # runs whose rows are sorted by length, so that few are padded
EVERYTHING = 1 << 60  # tokens
Vectors = dict[str, Float[Tensor, "n d"]]


class Stream:
    """The vectors at `sites` of a text's tokens, a run at a time; at the text's end it begins again, in another order.

    The first pass has the text's own order; of each later one it is drawn anew, by the text's seed (0 unless it has one) and the
    pass, within windows of documents as `rs.text` shuffles them.

    Tokens that any of the sites leaves out are left out at all: first tokens, padding and attention sinks, over ten times their
    row's median length (`engine.sinks.kept`). `place`: where it stands, as plain values, from which another goes on with the very
    same runs. The model stops above the last site.
    """

    def __init__(
        self, model: Model, reader: Reader, sites: Sequence[str], *, group: Group = ALONE, length: int = LENGTH
    ) -> None:
        self.model, self.reader, self.group, self.length = model, reader, group, length
        self.sites = [*dict.fromkeys(sites)]
        places = [model.sites.parse(site) for site in self.sites]
        self.capture: set[Site] = {*places, *(stream for site in places for stream in streams(model, site))}
        self.place: dict[str, int] = {"epoch": 0, "rows": 0, "runs": 0, "tokens": 0, "dropped": 0}

    def runs(self, tell: Tell, cancel: Cancel = None) -> Iterator[Vectors]:
        """The vectors of each run, from `place` on. Raises CorpusError, Cancelled."""
        while True:
            yield from self._pass(tell, cancel)
            self.place |= {"epoch": self.place["epoch"] + 1, "rows": 0, "runs": 0}

    def _pass(self, tell: Tell, cancel: Cancel) -> Iterator[Vectors]:
        rows = self._reader().rows(length=self.length, tokens=EVERYTHING, tell=tell)
        rows = islice(rows, self.place["rows"], None)
        while window := [*islice(rows, ROWS * WINDOW)]:
            batches = in_runs(window)
            each = self.group.size
            for first in range(self.place["runs"], len(batches), each):
                together = batches[first : first + each]
                own = together[self.group.rank] if self.group.rank < len(together) else []
                with asking(tell, cancel):
                    found = self._vectors(own)
                self.place["runs"] = first + len(together)
                self.place["tokens"] += sum(len(ids) for batch in together for ids in batch)
                vectors = {site: self.group.gathered(x) for site, x in found.items()}
                yield vectors
            self.place |= {"rows": self.place["rows"] + len(window), "runs": 0}

    def _reader(self) -> Reader:
        """What the pass that `place` is in reads from."""
        epoch, text = self.place["epoch"], self.reader.text
        if not epoch:
            return self.reader
        seed = random.Random(f"pass {epoch} {text.order.shuffle or 0}").randrange(1 << 31)
        return Reader(self.model, replace(text, order=replace(text.order, shuffle=seed)))

    def _vectors(self, batch: list[list[int]]) -> Vectors:
        if not batch:
            widths = {site: self.model.sites.width(self.model.sites.parse(site)) for site in self.sites}
            return {site: torch.zeros(0, width, device=self.model.device) for site, width in widths.items()}
        record = self.model.run(batch, self.capture)
        keep = torch.stack([kept(record, site).cpu() for site in self.sites]).all(0)
        self.place["dropped"] += int(record.batch.real.sum()) - int(keep.sum())
        keep = keep.to(self.model.device)
        return {site: record[site][keep].float() for site in self.sites}

    def state(self) -> dict[str, int]:
        return dict(self.place)

    def restore(self, place: Mapping[str, Any]) -> None:
        self.place = {name: int(number) for name, number in place.items()}


def in_runs(window: Sequence[Row]) -> list[list[list[int]]]:
    """The ids of rows, those of like length together, `ROWS` a run; the runs in the order of their first rows."""
    order = sorted(range(len(window)), key=lambda i: (-len(window[i].ids), i))
    runs = [order[first : first + ROWS] for first in range(0, len(order), ROWS)]
    return [[window[i].ids for i in run] for run in sorted(runs, key=min)]
