"""Graphs over many prompts: how often each edge is there, what they share, and how two of them differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.engine.model import Model, Prompt
from residscope.errors import GraphError
from residscope.graph.build import EDGES, causal_graph
from residscope.graph.cost import price
from residscope.graph.graph import Graph, Placed
from residscope.graph.nodes import Node
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Histogram, Table, View

LAST = -1  # the position of an edge of several prompts: each one's last
SHOWN = 60


@dataclass(frozen=True, eq=False, repr=False)
class Graphs(Report):
    """The causal graphs of several prompts, edge by edge.

    weights[graph, edge]: 0 where a graph is known not to have the edge; NaN where it may have had it before its weaker edges were
    left out. nodes, source, target, placed: as a graph has them, of all together.
    """

    kind: ClassVar[str] = "report:graphs"
    main: ClassVar[str] = "stability"
    prompts: tuple[str, ...]
    nodes: tuple[Node, ...]
    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weights: Float[Tensor, "graph edge"]
    placed: tuple[Placed, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def there(self) -> Float[Tensor, " edge"]:
        """The share of graphs that have each edge, of those that can tell."""
        known = ~self.weights.isnan()
        return ((self.weights != 0) & known).sum(0) / known.sum(0)

    @property
    def mean(self) -> Float[Tensor, " edge"]:
        """Of each edge over the graphs that can tell, those without it among them."""
        return self.weights.nanmean(0)

    @property
    def stability(self) -> Result:
        """Of each edge: the share of graphs that have it, the share of those with its usual sign, mean and standard deviation."""
        signs = self.weights.nan_to_num().sign()
        agree = torch.maximum((signs > 0).sum(0), (signs < 0).sum(0)) / (signs != 0).sum(0).clamp_min(1)
        spread = (self.weights - self.mean).square().nanmean(0).sqrt()
        values = torch.stack([self.there, agree, self.mean, spread], 1)
        coords = {"edge": self.labels, "measure": ("there", "of one sign", "mean", "standard deviation")}
        return Result(
            values,
            ("edge", "measure"),
            coords,
            name="stability",
            unit="shares; then activation",
            provenance=self.provenance,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        ends = zip(self.source.tolist(), self.target.tolist(), strict=True)
        return tuple(f"{self.nodes[a].id} > {self.nodes[b].id}" for a, b in ends)

    def union(self) -> Graph:
        """Every edge that any graph has, with its mean weight."""
        return self._graph(torch.ones(len(self.source), dtype=torch.bool), "union")

    def intersection(self, share: float = 1.0) -> Graph:
        """The edges that at least this share of the graphs has, of those that can tell. Raises GraphError: not over 0 to 1."""
        if not 0 < share <= 1:
            raise GraphError("a share of the graphs", received=str(share), allowed="over 0, up to 1")
        return self._graph(self.there >= share, f"in {share:.0%} or more")

    def _graph(self, keep: Bool[Tensor, " edge"], how: str) -> Graph:
        weight = self.mean
        order = weight.abs().argsort(descending=True, stable=True)
        order = order[keep[order]]
        about = {**self.provenance, "aggregate": how, "prompts": list(self.prompts)}
        whole = Graph(
            prompt=(f"{len(self)} prompts",), nodes=self.nodes, source=self.source[order], target=self.target[order],
            weight=weight[order], of=torch.full((len(order),), LAST), placed=self.placed, tokens=(), base=torch.zeros(0),
            logits=torch.zeros(len(self.nodes), 0), provenance=about,
        )  # fmt: skip
        return whole.with_edges(torch.ones(len(order), dtype=torch.bool))

    def view(self) -> View:
        """Which edges most of the prompts share, and how many are in how many."""
        order = (self.there * 1e6 + self.mean.abs()).argsort(descending=True, stable=True)[:SHOWN]
        found = self.stability.values[order]
        rows = [[self.labels[i], *row.tolist()] for i, row in zip(order.tolist(), found, strict=True)]
        table = Table(
            ["edge", "there", "of one sign", "mean", "deviation"], rows, title="The edges that most prompts share"
        )
        share = Histogram(
            {"edges": self.there}, bins=min(20, len(self)), title="In what share of the prompts", x_title="share"
        )
        return Grid([table, share], columns=2, title=f"Causal graphs of {len(self)} prompts")

    def __repr__(self) -> str:
        return f"Graphs({len(self)} prompts, {len(self.nodes)} nodes, {len(self.source)} edges)"


def aggregate(graphs: Sequence[Graph]) -> Graphs:
    """The graphs of several prompts, aligned by their nodes.

    An edge that a graph does not have is 0 in it where the graph is exact and whole, and NaN (not known) where its weaker edges
    were left out: in building it, by pruning, or because it was cancelled.

    Raises GraphError: none, other dictionaries, another way of reading, or nodes that stand for one position.
    """
    if not graphs:
        raise GraphError("graphs are taken together", received="none", allowed="one or more")
    for graph in graphs[1:]:
        check_alike(graphs[0], graph)
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], int] = {}
    for graph in graphs:
        for node in graph.nodes:
            if node.pos is not None:
                raise GraphError(
                    "nodes of one position are of one prompt",
                    received=node.id,
                    fix='build the graphs with ablate="all"',
                )
            nodes.setdefault(node.id, node)
        for a, b in ends_of(graph):
            edges.setdefault((a, b), len(edges))
    number = {id: i for i, id in enumerate(nodes)}
    weights = torch.stack([_weights(graph, edges) for graph in graphs])
    about = {key: value for key, value in graphs[0].provenance.items() if key not in ("positions", "pruned")}
    return Graphs(
        prompts=tuple("".join(graph.prompt) for graph in graphs), nodes=tuple(nodes.values()),
        source=torch.tensor([number[a] for a, _ in edges], dtype=torch.int64),
        target=torch.tensor([number[b] for _, b in edges], dtype=torch.int64),
        weights=weights, placed=graphs[0].placed, provenance=about,
    )  # fmt: skip


def difference(one: Graph, two: Graph) -> Graph:
    """The first less the second, edge by edge: prompt A against B, before and after an edit, a base model against its fine-tune.

    Where either does not have an edge and may have left it out as weak, the difference is not known, and it has no such edge; how
    many those are stands in the provenance. Effects on the next token are subtracted for the tokens that both have.

    Raises GraphError: other dictionaries, or another way of reading.
    """
    check_alike(one, two)
    nodes = {node.id: node for graph in (two, one) for node in graph.nodes}
    number = {id: i for i, id in enumerate(nodes)}
    edges = {end: i for i, end in enumerate(dict.fromkeys([*ends_of(one), *ends_of(two)]))}
    weight = _weights(one, edges) - _weights(two, edges)
    known = ~weight.isnan()
    order = weight.nan_to_num().abs().argsort(descending=True, stable=True)
    order = order[known[order]]
    ends = list(edges)
    tokens = tuple(token for token in one.tokens if token in two.tokens)
    about = {
        **one.provenance, "difference": ["".join(one.prompt), "".join(two.prompt)], "not known": int((~known).sum()),
        "models": [one.provenance.get("model"), two.provenance.get("model")],
    }  # fmt: skip
    made = Graph(
        prompt=one.prompt, nodes=tuple(nodes.values()),
        source=torch.tensor([number[ends[i][0]] for i in order.tolist()], dtype=torch.int64),
        target=torch.tensor([number[ends[i][1]] for i in order.tolist()], dtype=torch.int64),
        weight=weight[order], of=torch.full((len(order),), LAST), placed=one.placed, tokens=tokens,
        base=_base(one, tokens) - _base(two, tokens), logits=_logits(one, nodes, tokens) - _logits(two, nodes, tokens),
        provenance=about,
    )  # fmt: skip
    return made.with_edges(made.weight != 0)


def check_alike(one: Graph, two: Graph) -> None:
    """Raises GraphError where the edges of two graphs are not of the same features, or not measured in the same way."""
    mine, other = ({placed.id: placed.hash for placed in graph.placed} for graph in (one, two))
    if mine != other:
        different = sorted(id for id in mine.keys() | other.keys() if mine.get(id) != other.get(id))
        raise GraphError(
            "these graphs are of different dictionaries", received=", ".join(different), allowed="the same ones"
        )
    for name in ("ablate", "read", "reach", "scale", "by"):
        a, b = one.provenance.get(name), two.provenance.get(name)
        if a != b:
            raise GraphError(
                "these graphs were not measured in the same way", received=f"{name}: {a} and {b}", allowed="the same"
            )


def ends_of(graph: Graph) -> list[tuple[str, str]]:
    ids = [node.id for node in graph.nodes]
    return [(ids[a], ids[b]) for a, b in zip(graph.source.tolist(), graph.target.tolist(), strict=True)]


def whole_between(graph: Graph) -> Callable[[str, str], bool]:
    """Whether an edge between two dictionaries that the graph does not have is known to be 0."""
    estimated = graph.provenance.get("by", "exact") != "exact"  # of features that are active alone
    if graph.partial or graph.provenance.get("pruned") or estimated:
        return lambda a, b: False
    most = graph.provenance.get("edges")
    of = {node.id: node.dictionary for node in graph.nodes}
    counts: dict[tuple[str, str], int] = {}
    for a, b in ends_of(graph):
        counts[of[a], of[b]] = counts.get((of[a], of[b]), 0) + 1
    return lambda a, b: most is not None and counts.get((a, b), 0) < most


def _weights(graph: Graph, edges: Mapping[tuple[str, str], int]) -> Float[Tensor, " edge"]:
    """Of each of these edges; 0 or NaN where the graph does not have it."""
    known = whole_between(graph)
    row = torch.tensor([0.0 if known(_dictionary(a), _dictionary(b)) else float("nan") for a, b in edges])
    for end, weight in zip(ends_of(graph), graph.weight.tolist(), strict=True):
        row[edges[end]] = weight
    return row


def _dictionary(id: str) -> str:
    return id.rpartition("/")[0]


def _base(graph: Graph, tokens: Sequence[str]) -> Float[Tensor, " token"]:
    return graph.base[[graph.tokens.index(token) for token in tokens]] if tokens else torch.zeros(0)


def _logits(graph: Graph, nodes: Mapping[str, Node], tokens: Sequence[str]) -> Float[Tensor, "node token"]:
    """Of each node; NaN of those that the graph does not have."""
    found = torch.full((len(nodes), len(tokens)), float("nan"))
    columns = [graph.tokens.index(token) for token in tokens]
    for i, id in enumerate(nodes):
        if id in graph.numbers and columns:
            found[i] = graph.logits[graph.numbers[id], columns]
    return found


def price_of_each(model: Model, prompts: Prompt, dictionaries: Any, **given: Any) -> float:
    """Tokens through the whole model, about: the longest prompt's graph, for each."""
    batch = model.batch(prompts)
    longest = max(range(len(batch)), key=lambda row: batch.lengths[row])
    ids = batch.ids[longest][: batch.lengths[longest]].tolist()
    return len(batch) * price(model, ids, dictionaries, **{**given, "tokens": 0})


@method("causal-graphs", title="Causal graphs of many prompts", group="graphs", tokens=price_of_each)
def causal_graphs(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    dictionaries: Annotated[
        Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary, fields.dictionary(several=True)
    ],
    *,
    scale: Annotated[float, fields.number(help="what a feature is multiplied by")] = 0.0,
    errors: Annotated[bool, fields.flag(help="what each dictionary leaves out is a node too")] = True,
    edges: Annotated[
        int, fields.count(low=1, high=1_000_000, help="kept between two dictionaries, the strongest")
    ] = EDGES,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Graphs:
    """The exact causal graph of each prompt, at its last position, and how stable every edge is over them: see `causal_graph`.

        causal_graphs(model, task.clean, saes).intersection(0.9)

    Raises:
        GraphError, NoFeatures, SiteError, WrongWidth. Cancelled, with the graphs that are done as its `partial`.
    """
    batch = model.batch(prompts)
    made: list[Graph] = []

    def done() -> Graphs | None:
        return _of_fewer(aggregate(made), len(batch)) if made else None

    told: dict[str, Any] = {"scale": scale, "errors": errors, "edges": edges, "tokens": 0, "memory": memory}
    with stage("Drawing the graphs of prompts", len(batch), progress, cancel, partial=done) as tell:
        for row in range(len(batch)):
            ids = batch.ids[row][: batch.lengths[row]].tolist()
            made.append(causal_graph(model, ids, dictionaries, **told, progress=False))
            tell(row + 1)
    return aggregate(made)


def _of_fewer(graphs: Graphs, asked: int) -> Graphs:
    """The same, saying that it is of fewer prompts than were asked for."""
    about = {**graphs.provenance, "partial": f"{len(graphs)} of {asked} prompts: it was cancelled"}
    return replace(graphs, provenance=about)
