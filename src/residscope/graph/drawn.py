"""The edges of a graph as they are found, and the graph that they make; what its nodes do to the next token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.planner import sweep
from residscope.engine.recording import Recording
from residscope.graph.exact import Effects, Source, Strongest, removed
from residscope.graph.graph import Graph
from residscope.graph.nodes import Level, Node
from residscope.graph.setting import Setting
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress


class Drawn:
    """The edges found so far, and the graph that they make.

    exact: whether they are what they say; else the graph has room for exact values beside its weights.
    """

    def __init__(self, setting: Setting, at: int | None, *, each: bool, edges: int, exact: bool = True) -> None:
        self.setting, self.at, self.each, self.edges, self.exact = setting, at, each, edges, exact
        self.sources: dict[int, list[Source]] = {}
        self.found: dict[tuple[int, int], Strongest] = {}
        self.tokens: list[int] = []
        self.base = torch.zeros(0)
        self.logits: dict[int, Tensor] = {}

    def begin(self, number: int, sources: list[Source]) -> list[Source]:
        self.sources[number] = sources
        return sources

    def add(self, number: int, effect: Effects) -> None:
        if self.at is None:
            effect = replace(effect, values=effect.values * self.setting.keep[None, :, None].to(effect.values))
        self.found.setdefault((number, effect.target), Strongest(self.edges)).add(effect)

    def add_some(
        self, number: int, target: int, keys: Int[Tensor, "some 2"], values: Float[Tensor, "row some"]
    ) -> None:
        """Effects of a level's sources on some features of another: keys, the position (of those read) and feature of each."""
        values = values.float().cpu()
        row, some = values.nonzero(as_tuple=True)
        strongest = self.found.setdefault((number, target), Strongest(self.edges))
        strongest.take(row, keys[some, 0], keys[some, 1], values[row, some])

    def ask_tokens(self, ids: Sequence[int], base: Float[Tensor, " token"]) -> None:
        """The next tokens that effects are estimated on."""
        self.tokens, self.base = list(ids), base.float().cpu()

    def add_tokens(self, number: int, some: range, values: Float[Tensor, "row some"]) -> None:
        """Effects of a level's sources on some of the next tokens."""
        rows = len(self.sources[number])
        own = self.logits.setdefault(number, torch.full((rows, len(self.tokens)), torch.nan))
        own[:, some.start : some.stop] = values.float().cpu()

    def graph(self, told: Mapping[str, Any], *, partial: str = "") -> Graph:
        setting, read = self.setting, self.setting.last if self.at is None else self.at
        nodes: list[Node] = []
        numbers: dict[tuple[str, int, int | None], int] = {}

        def number_of(level: Level, index: int, pos: int | None) -> int:
            key = level.id, index, pos
            if key not in numbers:
                numbers[key] = len(nodes)
                nodes.append(level.node(index, pos, read))
            return numbers[key]

        measured: dict[int, Tensor] = {}
        for number, sources in self.sources.items():
            for row, source in enumerate(sources):
                node = number_of(setting.levels[number], source.index, source.pos)
                if number in self.logits:
                    measured[node] = self.logits[number][row]
        edges: list[tuple[float, int, int, int]] = []
        for (number, target), found in self.found.items():
            weights, keys = found.sorted()
            for weight, (row, pos, feature) in zip(weights.tolist(), keys.tolist(), strict=True):
                source, where = self.sources[number][row], read if self.at is not None else pos
                a = number_of(setting.levels[number], source.index, source.pos)
                b = number_of(setting.levels[target], feature, where if self.each else None)
                edges.append((weight, a, b, where))
        edges.sort(key=lambda edge: (-abs(edge[0]), *edge[1:]))
        weight, source_of, target_of, of = zip(*edges, strict=True) if edges else ((), (), (), ())
        logits = torch.full((len(nodes), len(self.tokens)), torch.nan)
        for node, values in measured.items():
            logits[node] = values
        model = setting.model
        about = {
            **model.provenance,
            "method": "causal_graph",
            **told,
            "ids": setting.batch.ids[0].tolist(),
            "positions": setting.keep.nonzero()[:, 0].tolist(),
            **({"token_ids": self.tokens} if self.tokens else {}),
        }
        return Graph(
            prompt=tuple(model.token_texts(setting.batch.ids[0].tolist())),
            nodes=tuple(nodes),
            source=torch.tensor(source_of, dtype=torch.int64), target=torch.tensor(target_of, dtype=torch.int64),
            weight=torch.tensor(weight, dtype=torch.float32), of=torch.tensor(of, dtype=torch.int64),
            placed=setting.placed(), tokens=tuple(model.token_texts(self.tokens)), base=self.base, logits=logits,
            partial=partial, exact=torch.full((0 if self.exact else len(weight),), torch.nan), provenance=about,
        )  # fmt: skip


def tokens_of(setting: Setting, tokens: int | Sequence[str | int]) -> list[int]:
    """The ids of so many likely next tokens, or of these."""
    if isinstance(tokens, int):
        return [id for _, id, _ in setting.record.top(tokens)]
    return [setting.model.token_id(token) for token in tokens]


def with_logits(
    setting: Setting,
    graph: Graph,
    tokens: int | Sequence[str | int],
    *,
    scale: float = 0.0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Graph:
    """The graph with what each node adds to the log-probability of the next token: of so many likely ones, or of these."""
    model, ids = setting.model, tokens_of(setting, tokens)
    if not ids or not graph.nodes:
        return graph
    levels = {level.id: level for level in setting.levels}
    cells = [
        removed(levels[node.dictionary], Source(node.index, node.pos), keep=setting.keep, scale=scale)
        for node in graph.nodes
    ]
    plan = sweep(model, setting.batch, cells, LogProbs(tuple(ids)), setting.background, memory=memory)
    values = plan.run(progress, cancel, what="Reading the next token").values[:, 0].float().cpu()
    base = plan.baseline()[0].float().cpu()
    return replace(graph, tokens=tuple(model.token_texts(ids)), base=base, logits=base - values)


@dataclass(frozen=True)
class LogProbs:
    """A readout: the log-probability of each of some tokens as the next one, in nats."""

    tokens: tuple[int, ...]
    sites: ClassVar[tuple[str, ...]] = ("logits",)
    pos: int = -1

    def columns(self, model: Any, batch: Batch) -> None:
        """All: they sum to one."""

    def of(self, logits: Tensor, ids: Any, model: Any, batch: Batch) -> Float[Tensor, "row token"]:
        return logits.float().log_softmax(-1)[:, list(self.tokens)]

    def __call__(self, recording: Recording) -> Float[Tensor, "row token"]:
        return self.of(recording.logits_at(self.pos, None), None, recording.model, recording.batch)
