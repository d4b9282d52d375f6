"""The edges of a transformer: who writes to the stream, who reads what was written before, and what one of them is worth."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.edits.paths import read_from, written
from residscope.engine.memory import budget
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, Cancelled
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress
from residscope.results import Result

NODES = ("every", "heads")
READS = ("all", "q", "k", "v", "each")
LOGITS = Site("final_norm")
Edge = tuple[int, int]  # a sender and a receiver, by their places


@dataclass(frozen=True)
class Sender:
    """What writes to the stream: a head's z, an MLP, the token embedding."""

    site: Site
    head: int | None = None

    @property
    def label(self) -> str:
        if self.site.layer is None:
            return self.site.name
        return f"mlp {self.site.layer}" if self.head is None else f"{self.site.layer}.{self.head}"


@dataclass(frozen=True)
class Receiver:
    """What reads the stream: a head through some of its queries, keys and values (`reads`), an MLP, the final norm."""

    site: Site
    head: int | None = None
    reads: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        if self.site == LOGITS:
            return "logits"
        if self.head is None:
            return f"mlp {self.site.layer}"
        return f"{self.site.layer}.{self.head}" + (f" {self.reads[0]}" if len(self.reads) == 1 else "")

    @property
    def ends(self) -> list[Site]:
        """The sites it reads the stream by."""
        return [Site(read, self.site.layer) for read in self.reads] or [self.site]

    @property
    def together(self) -> str:
        """In words, those that read with it: the heads of its layer, by the same input; itself, where it is no head."""
        by = f" by {self.reads[0]}" if len(self.reads) == 1 else ""
        return self.label if self.head is None else f"the heads of layer {self.site.layer}{by}"


@dataclass(frozen=True)
class Edges:
    """Senders and receivers, both in the order of the forward pass."""

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]
    model: Model

    def into(self, receiver: Receiver) -> range:
        """Which of the senders it reads: the first ones."""
        return range(bisect_left(self.times, read_from(receiver.ends[0], self.model.sites)))

    @cached_property
    def times(self) -> list[int]:
        """When each sender has written, in the order of the forward pass."""
        return [written(sender.site) for sender in self.senders]

    @cached_property
    def groups(self) -> list[list[int]]:
        """Receivers that read together, of which there is something to read."""
        found: dict[Any, list[int]] = {}
        for i, receiver in enumerate(self.receivers):
            found.setdefault((receiver.site, receiver.reads), []).append(i)
        return [group for group in found.values() if self.into(self.receivers[group[0]])]

    @cached_property
    def pairs(self) -> list[Edge]:
        """Every edge: group by group, then sender by sender."""
        return [(s, r) for group in self.groups for s in self.into(self.receivers[group[0]]) for r in group]

    def label(self, edge: Edge) -> list[str]:
        return [self.senders[edge[0]].label, self.receivers[edge[1]].label]

    def unknown(self, prompts: int) -> Float[Tensor, "sender receiver prompt"]:
        """NaN for each edge, zero where there is none."""
        values = torch.zeros(len(self.senders), len(self.receivers), prompts, dtype=torch.float64)
        values[tuple(torch.tensor(self.pairs).T)] = float("nan")
        return values

    def table(
        self, values: Float[Tensor, "sender receiver prompt"], *, name: str, unit: str, about: Mapping[str, Any],
        exact: bool | str = True,
    ) -> Result:  # fmt: skip
        """A number for each edge over sender and receiver, and prompt where there are several."""
        several = values.shape[2] > 1
        return Result(
            values if several else values[..., 0],
            ("sender", "receiver", "prompt") if several else ("sender", "receiver"),
            {"sender": [s.label for s in self.senders], "receiver": [r.label for r in self.receivers]},
            name=name, unit=unit, exact=exact, provenance=about,
        )  # fmt: skip


def edges_of(
    model: Model, *, nodes: str = "every", read: str = "all", senders: Sequence[int] | None = None,
    receivers: Sequence[int] | None = None,
) -> Edges:  # fmt: skip
    """The edges between the heads of a model, or between all its parts; of some layers. Raises BadSweep where there are none."""
    if nodes not in NODES or read not in READS:
        raise BadSweep(
            "no such edges", received=f"nodes={nodes!r}, read={read!r}",
            allowed=f"nodes: {', '.join(NODES)}; read: {', '.join(READS)}",
        )  # fmt: skip
    for layers in (senders, receivers):
        if layers is not None and (strange := {*layers} - {*range(model.n_layers)}):
            raise BadSweep("no such layers", received=str(sorted(strange)), allowed=f"0 to {model.n_layers - 1}")
    every = nodes == "every"
    mlps = every and "mlp_out" not in model.sites.absent
    reads = {"all": (("q", "k", "v"),), "each": (("q",), ("k",), ("v",))}.get(read, ((read,),))
    writing, reading = [], []
    if every and senders is None:
        writing.append(Sender(Site("embed")))
    for layer in range(model.n_layers):
        if senders is None or layer in senders:
            writing += [Sender(Site("z", layer), head) for head in range(model.heads_at(layer).n_heads)]
            writing += [Sender(Site("mlp_out", layer))] if mlps else []
        if receivers is None or layer in receivers:
            own = range(model.heads_at(layer).n_heads)
            reading += [Receiver(Site("z", layer), head, by) for head in own for by in reads]
            reading += [Receiver(Site("mlp_in", layer))] if mlps else []
    if every and receivers is None:
        reading.append(Receiver(LOGITS))
    found = Edges(tuple(writing), tuple(reading), model)
    if not found.pairs:
        raise BadSweep(
            "no receiver reads any of these senders", received=f"senders={senders}, receivers={receivers}",
            allowed="receivers behind the senders",
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Exactly:
    """What edges change of a metric, in forwards that begin at their receivers. `values`: the senders' in the other run."""

    edges: Edges
    values: Mapping[str, Tensor]
    batch: Batch
    metric: Readout
    background: Sequence[Edit]
    memory: int | None

    def fill(
        self, effects: Float[Tensor, "sender receiver prompt"], wanted: Sequence[Edge], progress: Progress, cancel: Cancel
    ) -> None:  # fmt: skip
        """Put the effects of some edges in their places, also where it is stopped on the way."""
        model = self.edges.model
        for group in self.edges.groups:
            inside = {*group}
            of_group = [edge for edge in wanted if edge[1] in inside]
            parts = self._parts(of_group)
            for number, part in enumerate(parts):
                words = self.edges.receivers[group[0]].together
                words += f", part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
                cells = self._cells(part, words, progress, cancel)
                plan = sweep(model, self.batch, cells, self.metric, self.background, memory=self.memory)
                base, where = plan.baseline().double().cpu(), tuple(torch.tensor(part).T)
                try:
                    effects[where] = (
                        plan.run(progress, cancel, what=f"Reading edges into {words}").values.double() - base
                    )
                except Cancelled as stop:
                    if stop.partial is not None:
                        effects[where] = stop.partial.values.double() - base
                    raise

    def _parts(self, edges: Sequence[Edge]) -> list[list[Edge]]:
        """Edges of as many senders at once as have room for what a layer's heads make of them, in a quarter of the memory."""
        model = self.edges.model
        each = self.batch.ids.numel() * model.n_heads * model.d_head * model.dtype.itemsize
        size = max(1, (budget(model.device) if self.memory is None else self.memory) // 4 // each)
        rows = [*dict.fromkeys(row for row, _ in edges)]
        some = [{*rows[first : first + size]} for first in range(0, len(rows), size)]
        return [[edge for edge in edges if edge[0] in these] for these in some]

    def _cells(self, edges: Sequence[Edge], words: str, progress: Progress, cancel: Cancel) -> list[list[Edit]]:
        """Of each edge, its receiver's other value: for heads, their outputs, which one pass over all senders gives."""
        model, first = self.edges.model, self.edges.receivers[edges[0][1]]
        rows = [*dict.fromkeys(row for row, _ in edges)]
        paths = {row: self._paths(self.edges.senders[row], first) for row in rows}
        if first.head is None:
            return [paths[row] for row, _ in edges]
        site = str(first.site)
        plan = sweep(model, self.batch, [*paths.values()], _Outputs(site), self.background, memory=self.memory)
        z = plan.run(progress, cancel, what=f"Following edges into {words}").values
        heads = model.heads_at(first.site.layer or 0)
        z = z.reshape(*z.shape[:2], -1, heads.n_heads, heads.d_head)
        made = dict(zip(rows, z, strict=True))
        return [[edits.patch(site, {site: made[s]}, head=self.edges.receivers[r].head)] for s, r in edges]

    def _paths(self, sender: Sender, receiver: Receiver) -> list[Edit]:
        """The sender's other value, as the receivers' inputs read it: those of all heads."""
        site = str(sender.site)
        return [edits.path(site, str(end), {site: self.values[site]}, sender_head=sender.head) for end in receiver.ends]


@dataclass(frozen=True)
class _Outputs:
    """A readout of what every head of a layer gives, position by position."""

    site: str
    unit = ""

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def __call__(self, recording: Any) -> Float[Tensor, "row entry"]:
        value: Tensor = recording[self.site]
        return value.flatten(1)
