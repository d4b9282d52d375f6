"""A training under way: its learners, the text they are fed from, and what of it stands on the disk."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from residscope.corpus.reading import Reader
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.progress import Cancel, Tell
from residscope.sae.training import checkpoint
from residscope.sae.training.buffer import Buffer
from residscope.sae.training.group import Group
from residscope.sae.training.learner import AROUND, Learner, Seen
from residscope.sae.training.plan import Plan
from residscope.sae.training.report import Training
from residscope.sae.training.stream import Stream

POINTS = 200  # of a curve
BUFFER = 1 << 15  # tokens, or a quarter of the budget


class Sitting:
    """Learners of several plans on one pass over a text, `batch` tokens a step for `budget` tokens.

    folder: where it is kept every `every` seconds, and goes on from if it is there.
    """

    def __init__(
        self,
        model: Model,
        reader: Reader,
        plans: Sequence[Plan],
        *,
        budget: int,
        batch: int,
        seed: int = 0,
        folder: Path | None = None,
        every: float = 300.0,
    ) -> None:
        self.model, self.reader, self.folder, self.every = model, reader, folder, every
        self.budget, self.batch, self.seed = budget, batch, seed
        self.group = Group.here()
        self.steps = max(1, budget // batch)
        self.learners = [Learner(plan, self.steps, budget, group=self.group) for plan in plans]
        sites = [site for plan in plans for site in (plan.site, plan.written)]
        self.stream = Stream(model, reader, sites, group=self.group)
        self.buffer = Buffer(max(2 * batch, min(BUFFER, budget // 4)), seed)
        self.number = 0
        self.points: list[list[float]] = []  # tokens, then FVU, L0 and dead share of each learner
        self._since: list[list[Seen]] = [[] for _ in self.learners]
        self._began = self._kept = time.monotonic()
        self._from = 0
        self._stated = False

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint is of."""
        plans = [learner.plan.facts() for learner in self.learners]
        facts = {"model": self.model.fingerprint() or self.model.name, "corpus": self.reader.about["corpus"]}
        return {**facts, "plans": plans, "budget": self.budget, "batch": self.batch, "seed": self.seed}

    # ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, tell: Callable[..., None], cancel: Cancel = None) -> Iterator[None]:
        """Learn until the budget is spent; yields at each new point. Raises TrainingDiverged, Cancelled, CorpusError."""
        if not self.buffer.held:
            self.restored()
        runs = self.stream.runs(_asking(tell), cancel)
        while self.number < self.steps:
            if self.buffer.low or self.buffer.unread < self.batch:
                self.keep_by_the_way()
                self.buffer.refill(runs)
                if not self._stated:
                    self._begin()
            vectors = {site: self.group.share(x) for site, x in self.buffer.take(self.batch).items()}
            for learner, since in zip(self.learners, self._since, strict=True):
                since.append(learner.step(vectors[learner.plan.site], vectors[learner.plan.written]))
            self.number += 1
            tell(self.number * self.batch)
            if self.number % max(1, self.steps // POINTS) == 0 or self.number == self.steps:
                self._point()
                yield

    def _begin(self) -> None:
        first = self.buffer.first(max(AROUND, 4 * self.batch))
        for learner in self.learners:
            learner.begin(first[learner.plan.site], first[learner.plan.written])
        self._stated = True

    def _point(self) -> None:
        row = [float(self.number * self.batch)]
        for since in self._since:
            columns = zip(*((seen.fvu, seen.l0, seen.dead) for seen in since), strict=True)
            row += [sum(column) / len(since) for column in columns]
            since.clear()
        self.points.append(row)

    # ── what it gives ───────────────────────────────────────────────────────────────────────────────────────────

    def training(self) -> Training:
        """The curves so far."""
        table = torch.tensor(self.points, dtype=torch.float64).reshape(len(self.points), 1 + 3 * len(self.learners)).T
        seconds = time.monotonic() - self._began
        speed = (self.number - self._from) * self.batch / max(seconds, 1e-9)
        names = tuple(learner.plan.named for learner in self.learners)
        fvu, l0, dead = (table[1 + i :: 3].clone() for i in range(3))
        told = {**self._provenance(), "seconds": seconds, "tokens/s": speed}
        return Training(names, table[0].clone(), fvu, l0, dead, self.budget, told)

    def dictionaries(self) -> dict[str, EncoderDictionary]:
        """Each dictionary as it is now, by what it is; none before the first vectors were read."""
        if not self._stated:
            return {}
        about = self._provenance()
        return {one.plan.named: one.dictionary(self.buffer.scales, about) for one in self.learners}

    def _provenance(self) -> dict[str, Any]:
        read = self.stream.place
        told = {**self.model.provenance, "method": "sae-train", **self.reader.about, "seed": self.seed}
        told |= {"tokens": self.number * self.batch, "budget": self.budget, "batch": self.batch}
        return told | {"passes": read["epoch"] + 1, "read": read["tokens"], "left out": read["dropped"]}

    # ── on the disk ─────────────────────────────────────────────────────────────────────────────────────────────

    def keep_by_the_way(self) -> None:
        if self._stated and self.folder is not None and time.monotonic() - self._kept >= self.every:
            self.keep()

    def keep(self) -> None:
        """A checkpoint, by one process of the group. Raises CheckpointNotWritten."""
        self._kept = time.monotonic()
        if self.folder is None or not self._stated or self.group.rank:
            return
        tensors, facts = self.buffer.state()
        learners = []
        for i, learner in enumerate(self.learners):
            own, told = learner.state()
            tensors |= {f"learner.{i}/{name}": x for name, x in own.items()}
            learners.append(told)
        state: dict[str, Any] = {"buffer": facts, "learners": learners, "stream": self.stream.state()}
        state |= {
            "number": self.number,
            "points": self.points,
            "since": [[vars(s) for s in one] for one in self._since],
        }
        checkpoint.write(self.folder, self.about, tensors, state)

    def restored(self) -> bool:
        """Be as the folder has it; whether it has anything. Raises BadTraining, DamagedFile."""
        found = None if self.folder is None else checkpoint.read(self.folder, self.about)
        if found is None:
            return False
        tensors, state = found
        self.buffer.restore(_below(tensors, "", but="learner."), state["buffer"], self.model.device)
        for i, (learner, told) in enumerate(zip(self.learners, state["learners"], strict=True)):
            learner.restore(_below(tensors, f"learner.{i}/"), told, self.model.device)
        self.stream.restore(state["stream"])
        self.number, self.points = state["number"], state["points"]
        self._since = [[Seen(**seen) for seen in one] for one in state["since"]]
        self._from, self._stated = self.number, True
        return True


def _below(tensors: Mapping[str, Any], prefix: str, *, but: str = "\0") -> dict[str, Any]:
    return {
        name.removeprefix(prefix): x
        for name, x in tensors.items()
        if name.startswith(prefix) and not name.startswith(but)
    }


def _asking(tell: Tell) -> Tell:
    """Only asks: what is read is not what is learned from."""
    return lambda *_: tell()
