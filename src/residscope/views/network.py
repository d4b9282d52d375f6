"""Nodes and edges, laid out in levels: what raises what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from residscope.views.view import Labels, Part, View, names


@dataclass(frozen=True)
class NetworkNode(Part):
    """One node where it is drawn: x in columns from the left, y in levels from the bottom.

    value: its colour, on one scale for all nodes; None: none. group: the name of the group it is in, if any. text: what is told
    of it where it is pointed at. link: an address that it leads to. error: it stands for what a dictionary leaves out.
    """

    id: str
    label: str
    x: float
    y: float
    value: float | None = None
    group: str = ""
    text: str = ""
    link: str = ""
    error: bool = False


@dataclass(frozen=True)
class NetworkEdge(Part):
    """An edge from one node to another, by their places in the view; value: signed, red where it raises."""

    source: int
    target: int
    value: float
    text: str = ""


@dataclass(frozen=True)
class Network(View):
    """A layered graph with its layout: `levels` from the bottom, `columns` from the left.

    Edges are on one scale of colour and width, `limit` its end (the largest |value| unless said); nodes on another, by `value`,
    in `node_unit`.

    >>> a, b = NetworkNode("a", "a", 0.0, 0.0), NetworkNode("b", "b", 0.0, 1.0)
    >>> Network([a, b], [NetworkEdge(0, 1, 2.0)], levels=["first", "second"], columns=["The"]).kind
    'network'
    """

    kind: ClassVar[str] = "network"
    nodes: Sequence[NetworkNode]
    edges: Sequence[NetworkEdge]
    levels: Labels
    columns: Labels
    title: str = ""
    unit: str = ""
    node_unit: str = ""
    limit: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self._set(nodes=tuple(self.nodes), edges=tuple(self.edges))
        self._set(levels=names(self, "levels", self.levels), columns=names(self, "columns", self.columns))
        for node in self.nodes:
            self.require(
                isinstance(node, NetworkNode), "it has a node of another kind", type(node).__name__, "NetworkNode"
            )
        for edge in self.edges:
            self.require(
                isinstance(edge, NetworkEdge), "it has an edge of another kind", type(edge).__name__, "NetworkEdge"
            )
            for end in (edge.source, edge.target):
                there = isinstance(end, int) and 0 <= end < len(self.nodes)
                self.require(there, "an edge leads to no node", end, f"0 to {len(self.nodes) - 1}")
        self._strings("title", "unit", "node_unit", "note")
