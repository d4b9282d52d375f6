"""What people say of a graph: names of nodes, and nodes taken as one."""

from collections.abc import Sequence
from dataclasses import replace

from residscope.errors import GraphError, NameTaken, NotFound
from residscope.graph.graph import Graph, Group
from residscope.written import name_of

MOST_NAME = 80


def with_label(graph: Graph, node: str, name: str) -> Graph:
    """The graph with a node called so; "" gives it its own name again. Raises NotFound, BadText."""
    _known(graph, [node])
    labels = {id: label for id, label in graph.labels.items() if id != node}
    return replace(graph, labels=labels | ({node: name_of(name, "a node's name", most=MOST_NAME)} if name else {}))


def with_group(graph: Graph, nodes: Sequence[str], name: str) -> Graph:
    """The graph with these nodes taken as one; they leave whatever group they were in, and a group that is left empty goes.

    Raises:
        NotFound. GraphError: fewer than two nodes. NameTaken: another group has that name. BadText.
    """
    chosen = [*dict.fromkeys(nodes)]
    _known(graph, chosen)
    if len(chosen) < 2:
        raise GraphError("a group is of nodes taken as one", received=f"{len(chosen)} nodes", allowed="two or more")
    name = name_of(name, "a group's name", most=MOST_NAME)
    rest = [replace(group, nodes=tuple(id for id in group.nodes if id not in chosen)) for group in graph.groups]
    rest = [group for group in rest if group.nodes]
    if any(group.name == name for group in rest):
        raise NameTaken("another group of the graph has that name", received=name, fix="choose another")
    return replace(graph, groups=(*rest, Group(name, tuple(chosen))))


def without_group(graph: Graph, name: str) -> Graph:
    """The graph with the nodes of a group each by itself. Raises NotFound."""
    group_of(graph, name)
    return replace(graph, groups=tuple(group for group in graph.groups if group.name != name))


def with_group_called(graph: Graph, name: str, to: str) -> Graph:
    """The graph with a group called otherwise. Raises NotFound, NameTaken, BadText."""
    group, to = group_of(graph, name), name_of(to, "a group's name", most=MOST_NAME)
    if to != name and any(other.name == to for other in graph.groups):
        raise NameTaken("another group of the graph has that name", received=to, fix="choose another")
    return replace(graph, groups=tuple(replace(g, name=to) if g is group else g for g in graph.groups))


def group_of(graph: Graph, name: str) -> Group:
    """Raises NotFound."""
    found = next((group for group in graph.groups if group.name == name), None)
    if found is None:
        known = ", ".join(group.name for group in graph.groups) or "none"
        raise NotFound("the graph has no such group", received=name[:200], allowed=known)
    return found


def _known(graph: Graph, nodes: Sequence[str]) -> None:
    strange = [id for id in nodes if id not in graph.numbers]
    if strange:
        raise NotFound(
            "the graph has no such node", received=strange[0][:200], allowed=", ".join([*graph.numbers][:4]) + " ..."
        )
