"""Nodes and edges, laid out in levels: what raises what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from residscope.views.pictures import check_scale
from residscope.views.view import Labels, Part, View, names

LINKS = ("https://", "http://", "#", "/")


@dataclass(frozen=True)
class NetworkNode(Part):
    """One node where it is drawn: x in places from the left, y in rows from the bottom.

    value: its colour, on one scale for all nodes; None: none. group: the name of the group it is in, if any. text: what is told
    of it where it is pointed at. link: an address that it leads to: of the web, or within the page (`#...`). error: it stands for
    what a dictionary leaves out.
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

    def __post_init__(self) -> None:
        self._strings("id", "label", "group", "text", "link")
        for name in ("x", "y"):
            self.require(_finite(getattr(self, name)), f"{name} is no place", getattr(self, name), "a finite number")
        known = self.value is None or _finite(self.value)
        self.require(known, "its value is no number", self.value, "a finite number, or None")
        safe = not self.link or (self.link.startswith(LINKS) and all("!" <= letter <= "~" for letter in self.link))
        allowed = f"{' '.join(LINKS)}, in letters of ASCII"
        self.require(safe, "its link is of a kind that is not followed", repr(self.link[:60]), allowed)


@dataclass(frozen=True)
class NetworkEdge(Part):
    """An edge from one node to another, by their places in the view; value: signed, red where it raises."""

    source: int
    target: int
    value: float
    text: str = ""

    def __post_init__(self) -> None:
        self._strings("text")
        self.require(_finite(self.value), "its value is no number", self.value, "a finite number")


@dataclass(frozen=True)
class Network(View):
    """A layered graph with its layout: `levels` names its rows from the bottom, `columns` its places from the left.

    Nodes of one row are at least one place apart. A level of several rows has its name at the lowest and "" at the others, a
    column of several places at the leftmost; without columns, places have no names. Edges are on one scale of colour and width,
    `limit` its end (the largest |value| unless said), `unit` theirs; nodes on another, by `value`, in `node_unit`.

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
        ids = {node.id for node in self.nodes}
        self.require(len(ids) == len(self.nodes), "two of its nodes have one id", len(self.nodes), f"{len(ids)} ids")
        for edge in self.edges:
            self.require(
                isinstance(edge, NetworkEdge), "it has an edge of another kind", type(edge).__name__, "NetworkEdge"
            )
            for end in (edge.source, edge.target):
                there = isinstance(end, int) and 0 <= end < len(self.nodes)
                self.require(there, "an edge leads to no node", end, f"0 to {len(self.nodes) - 1}")
        check_scale(self, "diverging", self.limit)
        self._strings("title", "unit", "node_unit", "note")


def _finite(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
