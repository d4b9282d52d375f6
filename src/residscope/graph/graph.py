"""The causal graph of one run, as an item: nodes, edges, what each node does to the next token, and where it all came from."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.endings import check_ending
from residscope.graph.nodes import Node
from residscope.reports import Record, Report
from residscope.views import View

if TYPE_CHECKING:
    from residscope.engine.model import Model
    from residscope.graph.validation.report import Validation

_SITE = re.compile(r"[a-z_]+\.\d+")


@dataclass(frozen=True, eq=False)
class Placed(Record):
    """A dictionary of a graph: where it is read and written, how many features it has, how much of the run it leaves out.

    unexplained: the fraction of variance unexplained over the positions that are used, |x - x'|^2 / |x - mean|^2.
    """

    kind: ClassVar[str] = "placed"
    id: str
    hash: str
    read_site: str
    write_site: str
    features: int
    active: int
    unexplained: float

    @property
    def site(self) -> str:
        """Where it is read, as its id has it: the stream after a block and before the next is one site of two names."""
        named = self.id.rpartition("@")[2]
        if _SITE.fullmatch(named):
            return named
        name, _, layer = self.read_site.partition(".")
        return (
            f"resid_post.{int(layer) - 1}"
            if name == "resid_pre" and layer.isdigit() and layer != "0"
            else self.read_site
        )

    @property
    def layer(self) -> int | None:
        """The block of that site."""
        site = self.site or f".{self.id.rpartition('@')[2]}"
        layer = site.partition(".")[2].partition(" ")[0]
        return int(layer) if layer.isdigit() else None


@dataclass(frozen=True, eq=False)
class Group(Record):
    """Nodes that are taken as one, by their ids: a supernode, with the name that a person gave it."""

    kind: ClassVar[str] = "group"
    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Graph(Report):
    """A causal graph: how far each feature of a run raises each later one.

        weight(i -> j) = a_j - a_j without i            so above zero: i promotes j, and taking i out lowers it

    nodes, and edges between them by number: `source`, `target`, `weight`, strongest first. of: at which position each edge is
    read. logits[node, token]: by how much the node raises the log-probability of each of `tokens` as the next one, in nats; NaN
    where that was not asked. base: their log-probabilities in the whole run. placed: its dictionaries, in the order of the
    forward. partial: what stopped it, if it was. exact: of an estimated graph, what some of its edges are exactly, in the order
    of `weight`, NaN where that was not measured; empty where the weights are exact themselves. labels: names that people gave
    nodes, by id. groups: nodes taken as one.
    """

    kind: ClassVar[str] = "report:graph"
    prompt: tuple[str, ...]
    nodes: tuple[Node, ...]
    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    of: Int[Tensor, " edge"]
    placed: tuple[Placed, ...]
    tokens: tuple[str, ...]
    base: Float[Tensor, " token"]
    logits: Float[Tensor, "node token"]
    partial: str = ""
    exact: Float[Tensor, " measured"] = field(default_factory=lambda: torch.zeros(0))
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each node by its id."""
        return {node.id: i for i, node in enumerate(self.nodes)}

    def edge(self, source: str, target: str) -> float:
        """The weight of one edge by its nodes' ids; 0 where there is none. Raises KeyError for a node that it does not have."""
        a, b = self.numbers[source], self.numbers[target]
        found = self.weight[(self.source == a) & (self.target == b)]
        return float(found[0]) if len(found) else 0.0

    def with_edges(self, keep: Tensor) -> "Graph":
        """The same with some of its edges, and the nodes that they join."""
        source, target = self.source[keep], self.target[keep]
        used = torch.zeros(len(self.nodes), dtype=torch.bool)
        used[source] = used[target] = True
        number = used.long().cumsum(0) - 1
        return replace(
            self,
            nodes=tuple(node for node, there in zip(self.nodes, used.tolist(), strict=True) if there),
            source=number[source], target=number[target], weight=self.weight[keep], of=self.of[keep],
            logits=self.logits[used], exact=self.exact[keep] if len(self.exact) else self.exact,
        )  # fmt: skip

    def to_dataframe(self) -> pandas.DataFrame:
        """The edges: source, target, position, weight."""
        ids = [node.id for node in self.nodes]
        return pandas.DataFrame(
            {
                "source": [ids[i] for i in self.source.tolist()],
                "target": [ids[i] for i in self.target.tolist()],
                "pos": self.of.tolist(),
                "weight": self.weight.tolist(),
            }
        )

    def validate(self, model: "Model", dictionaries: Any, **options: Any) -> "Validation":
        """Whether it means anything: `rs.validate_graph` of this graph, with the same options. Raises what that does."""
        found: Validation = import_module("residscope.graph.validation").validate_graph(
            model, self, dictionaries, **options
        )
        return found

    def view(self) -> View:
        """The strongest edges as a picture, and as a table; and the nodes that move the next token most."""
        return PICTURES[0](self)

    def save(self, path: str | Path) -> None:
        """One file, by its ending, whole or not there.

        none, .safetensors    what `load` reads, as every report
        .json                 the graph's own JSON, one node or edge a line; `.neuronpedia.json` Neuronpedia's
        .html, .svg, .png, .pdf    a page or a figure, whose nodes lead to the workbench on this machine

        Raises:
            WrongEnding, FileNotThere: a name of another kind of file; no such folder. GraphError: what Neuronpedia cannot have.
        """
        check_ending(path, "graph")
        path = Path(path).expanduser()
        name = next((ending for ending in WRITERS if path.name.lower().endswith(ending)), None)
        if name is None:
            return super().save(path)
        return WRITERS[name](self, path)

    @classmethod
    def load(cls, path: str | Path) -> "Graph":
        """A graph that was saved: `save`'s safetensors and JSON; Neuronpedia's JSON; a graph of circuit-tracer (`.pt`).

        Raises:
            FileNotThere, DamagedFile: no file, or none that holds a graph of a version that is read.
        """
        ending = Path(path).suffix.lower()
        return READERS[ending](Path(path).expanduser()) if ending in READERS else super().load(path)

    @property
    def note(self) -> str:
        """What a reader should know: dictionaries that do not fit, how far sums are from what is read, what stopped it."""
        checked = self.provenance.get("sum")
        told = (
            ""
            if checked is None
            else (
                f"What {checked['features']:,} features read is the sum over their sources, "
                f"to within {checked['largest difference']:.2g}."
            )
        )
        return " ".join(filter(None, (*self.provenance.get("notes", ()), told, self.partial)))

    def __repr__(self) -> str:
        by = self.provenance.get("by", "exact")
        made = "" if by == "exact" else f", estimated by {by}"
        stopped = f"{made}; partial: {self.partial}" if self.partial else made
        return f"Graph({len(self.nodes)} nodes, {len(self.weight)} edges over {len(self.placed)} dictionaries{stopped})"


# what shows a graph, and who writes and reads one, by the ending of the file's name: they say so themselves
PICTURES: list[Callable[[Graph], View]] = []
WRITERS: dict[str, Callable[[Graph, Path], None]] = {}
READERS: dict[str, Callable[[Path], Graph]] = {}
