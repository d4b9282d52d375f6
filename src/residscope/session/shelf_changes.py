"""Intents that change the shelf, which write files: they are done outside the session's lock."""

from pydantic import Field

from residscope.errors import NotFound
from residscope.fields.base import Spec
from residscope.graph.graph import Graph
from residscope.graph.shown.named import with_group, with_group_called, with_label, without_group
from residscope.shelf.items import ItemShelf

MOST_NODES = 2_000


class ShelfChange(Spec):
    def change(self, shelf: ItemShelf) -> None:
        raise NotImplementedError


class RenameItem(ShelfChange):
    name: str
    to: str

    def change(self, shelf: ItemShelf) -> None:
        shelf.rename(self.name, self.to)


class DeleteItem(ShelfChange):
    name: str

    def change(self, shelf: ItemShelf) -> None:
        shelf.delete(self.name)


class RestoreItem(ShelfChange):
    def change(self, shelf: ItemShelf) -> None:
        shelf.restore()


class GraphChange(ShelfChange):
    """item: a graph of the shelf."""

    item: str

    def changed(self, graph: Graph) -> Graph:
        raise NotImplementedError

    def change(self, shelf: ItemShelf) -> None:
        graph = graph_in(shelf, self.item)
        new = self.changed(graph)
        if new != graph:
            shelf.change(self.item, new)


class NameNode(GraphChange):
    """name: empty gives the node its own name again."""

    node: str
    name: str = Field(max_length=400)

    def changed(self, graph: Graph) -> Graph:
        return with_label(graph, self.node, self.name.strip())


class GroupNodes(GraphChange):
    """Nodes of a graph taken as one."""

    nodes: list[str] = Field(max_length=MOST_NODES)
    name: str = Field(max_length=400)

    def changed(self, graph: Graph) -> Graph:
        return with_group(graph, self.nodes, self.name)


class RenameGroup(GraphChange):
    name: str
    to: str = Field(max_length=400)

    def changed(self, graph: Graph) -> Graph:
        return with_group_called(graph, self.name, self.to)


class UngroupNodes(GraphChange):
    name: str

    def changed(self, graph: Graph) -> Graph:
        return without_group(graph, self.name)


class UndoGraph(GraphChange):
    """Take the latest name or group of a graph back."""

    def change(self, shelf: ItemShelf) -> None:
        graph_in(shelf, self.item)
        shelf.change_back(self.item)


def graph_in(shelf: ItemShelf, name: str) -> Graph:
    """Raises NotFound: no such item, or it is no graph."""
    kept = shelf.find(name)
    if not isinstance(kept.item, Graph):
        raise NotFound(
            "that is no causal graph", received=f"{name}, {kept.item.kind}", fix='draw one: the method "Causal graph"'
        )
    return kept.item


CHANGES: dict[str, type[ShelfChange]] = {
    "rename_item": RenameItem,
    "delete_item": DeleteItem,
    "restore_item": RestoreItem,
    "name_node": NameNode,
    "group_nodes": GroupNodes,
    "rename_group": RenameGroup,
    "ungroup_nodes": UngroupNodes,
    "undo_graph": UndoGraph,
}
