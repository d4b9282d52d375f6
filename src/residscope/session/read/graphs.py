"""What the Graph tab is told: a graph of the shelf pruned and laid out, one of its nodes, groups that it might have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import NotFound, ResidscopeError
from residscope.features.feature_page import page as page_of
from residscope.graph.graph import Graph, Placed
from residscope.graph.nodes import Node
from residscope.graph.parts import heads, neurons
from residscope.graph.pruning.prune import prune
from residscope.graph.shown.named import group_of
from residscope.graph.shown.picture import MOST_EDGES, left_out, network_of, strongest
from residscope.graph.shown.proposals import RULE, proposals
from residscope.json_values import finite
from residscope.session.read.features import Features
from residscope.session.read.graph_shapes import (
    MOST_DRAWN,
    GraphDictionary,
    GraphFound,
    GraphNode,
    GraphNodeDetail,
    GraphProposals,
    GraphShown,
    Neighbour,
    NodePage,
)
from residscope.session.state import State
from residscope.shelf.items import ItemShelf, Kept
from residscope.views import NetworkNode
from residscope.world.dictionaries import in_stream
from residscope.world.loaded import Loaded
from residscope.world.read import poles
from residscope.world.session_world import need_model

MOST_NEAR, MOST_NAMED = 40, 3
NEXT = "next"  # what the picture calls the next tokens: next/0 ...


@dataclass(frozen=True)
class OpenedGraph:
    """A graph of the shelf with those of its dictionaries that are here, by the graph's names; ids: the session's."""

    kept: Kept
    graph: Graph
    loaded: Loaded
    dictionaries: Mapping[str, Dictionary]
    ids: Mapping[str, str]

    def need(self, *names: str) -> None:
        """Raises NotFound: a dictionary that is not here."""
        for name in names:
            if name not in self.dictionaries:
                raise NotFound(
                    "a dictionary of the graph is not loaded",
                    received=missing_of(self.graph, name),
                    allowed=", ".join([*self.loaded.dictionaries][:4]) or "no dictionary is here",
                    fix="import its file under Methods, or load it (`rs.sae.load`) and put it on the shelf",
                )

    def members(self, id: str) -> list[str]:
        """The nodes that an id stands for: itself, or a group's. Raises NotFound."""
        if id in self.graph.numbers:
            return [id]
        return [one for one in group_of(self.graph, id.removeprefix("group/")).nodes if one in self.graph.numbers]

    def label(self, id: str) -> str:
        return self.graph.labels.get(id) or self.graph.nodes[self.graph.numbers[id]].label


class Graphs:
    """Answers from the graphs on the shelf. now: the session's state; features: its atlases."""

    def __init__(self, now: Callable[[], State], items: ItemShelf, features: Features) -> None:
        self._now, self._items, self._features = now, items, features

    def open(self, name: str) -> OpenedGraph:
        """Raises NotFound: no such item, or it is no graph."""
        kept, loaded = self._items.find(name), need_model(self._now().model)
        if not isinstance(kept.item, Graph):
            raise NotFound(
                "that is no causal graph",
                received=f"{name}, {kept.item.kind}",
                fix='draw one: the method "Causal graph"',
            )
        graph, here = kept.item, {d.hash: id for id, d in loaded.dictionaries.items()}
        ids = {placed.id: here[placed.hash] for placed in graph.placed if placed.hash in here}
        own = {placed.id: part for placed in graph.placed if (part := own_part(loaded.model, placed)) is not None}
        return OpenedGraph(kept, graph, loaded, own | {name: loaded.dictionaries[id] for name, id in ids.items()}, ids)

    def shown(self, name: str, *, nodes: int = MOST_DRAWN, **thresholds: Any) -> GraphShown:
        """A graph with what its thresholds leave of it, as `graph.prune` takes them. Raises NotFound, GraphError."""
        opened = self.open(name)
        graph, kept = opened.graph, opened.kept
        asked = {key: value for key, value in thresholds.items() if value is not None}
        less = prune(graph, **asked) if asked else graph
        near = strongest(less, nodes, MOST_EDGES)
        view = network_of(near, left_out=left_out(less, near))
        told, size = graph.provenance, graph.weight.abs()
        drawn = [self._node(opened, near, node) for node in view.nodes]
        exact = _exact_of(near)
        ids = [node["id"] for node in drawn]
        return {
            "item": name,
            "prompt": [*graph.prompt],
            "ids": _ints(told.get("ids")),
            "positions": _ints(told.get("positions")),
            "view": view.to_dict(),
            "nodes": drawn,
            "edges": [
                {
                    "source": edge.source, "target": edge.target,
                    "weight": _weight(graph, drawn[edge.source]["members"], ids[edge.target], edge.value),
                    "exact": exact.get((ids[edge.source], ids[edge.target])),
                }
                for edge in view.edges
            ],
            "dictionaries": [_placed(opened, i) for i in range(len(graph.placed))],
            "tokens": [*graph.tokens],
            "base": [finite(value) for value in graph.base.tolist()],
            "how": how_of(graph),
            "estimated": told.get("by", "exact") != "exact" or bool(len(graph.exact)),
            "scale": float(told.get("scale", 0.0)),
            "of_nodes": len(graph.nodes),
            "of_edges": len(graph.weight),
            "left": [len(less.nodes), len(less.weight)],
            "range": [float(size.min()), float(size.max())] if len(size) else [0.0, 0.0],
            "effects": bool(graph.logits.numel()) and not bool(graph.logits.isnan().all()),
            "groups": [{"name": group.name, "nodes": [*group.nodes]} for group in graph.groups],
            "partial": graph.partial,
            "can_undo": bool(kept.before),
            "code": self._code(opened, asked),
        }  # fmt: skip

    def node(self, name: str, id: str) -> GraphNodeDetail:
        """One node of a graph: a feature, or what a dictionary leaves out. Raises NotFound."""
        opened = self.open(name)
        graph = opened.graph
        if id not in graph.numbers:
            raise NotFound("the graph has no such node", received=id[:200], allowed=", ".join([*graph.numbers][:4]))
        number = graph.numbers[id]
        node, missing = graph.nodes[number], None
        placed = next(one for one in graph.placed if one.id == node.dictionary)
        told: NodePage = {"raised": [], "lowered": [], "address": None, "atlas": None, "examples": None}
        try:
            opened.need(node.dictionary)
            if not node.is_error:
                told = self._page(opened, node.dictionary, node.index)
        except ResidscopeError as error:
            missing = str(error)
        effects = graph.logits[number].tolist() if graph.logits.numel() else []
        return {
            **told,
            "item": name, "id": id, "label": opened.label(id), "own": node.label, "place": placed.write_site,
            "index": node.index, "pos": node.pos, "activation": node.activation,
            "group": next((group.name for group in graph.groups if id in group.nodes), ""),
            "effects": [
                {"text": text, "value": value} for text, value in zip(graph.tokens, effects, strict=False) if value == value
            ],
            "sources": _near(opened, graph.target == number, graph.source),
            "targets": _near(opened, graph.source == number, graph.target),
            "missing": missing,
        }  # fmt: skip

    def find(self, name: str, text: str, *, count: int) -> GraphFound:
        """Nodes whose id, label or token has this text, whatever thresholds leave of the graph. Raises NotFound."""
        opened, wanted = self.open(name), text.strip().lower()
        graph = opened.graph

        def words(node: Node) -> str:
            token = graph.prompt[node.pos] if node.pos is not None and node.pos < len(graph.prompt) else ""
            return f"{node.id}\n{opened.label(node.id)}\n{node.label}\n{token}".lower()

        found = [i for i, node in enumerate(graph.nodes) if wanted in words(node)]
        exact = [i for i in found if graph.nodes[i].id.lower() == wanted]
        first = [*exact, *(i for i in found if i not in exact)][:count]
        return {"item": name, "total": len(found), "nodes": [_alone(opened, i) for i in first]}

    def proposals(self, name: str, *, least: float) -> GraphProposals:
        """Nodes that might be taken as one: `residscope.graph.shown.proposals`. Raises NotFound, BadArguments."""
        opened = self.open(name)
        found = proposals(opened.graph, opened.dictionaries, least=least)
        lacking = [placed.id for placed in opened.graph.placed if placed.id not in opened.dictionaries]
        return {
            "item": name,
            "rule": RULE.format(least=least),
            "groups": [
                {
                    "name": _together([opened.label(id) for id in one.nodes]),
                    "nodes": [*one.nodes],
                    "likeness": one.likeness,
                }
                for one in found
            ],
            "missing": [missing_of(opened.graph, id) for id in lacking],
        }

    def _node(self, opened: OpenedGraph, less: Graph, drawn: NetworkNode) -> GraphNode:
        graph = opened.graph
        members = [id for id in self._members(opened, drawn) if id in less.numbers]
        numbers = [graph.numbers[id] for id in members]
        nodes = [graph.nodes[i] for i in numbers]
        of = {node.dictionary for node in nodes}
        one = nodes[0] if len(nodes) == 1 and drawn.id in graph.numbers else None
        token = token_of(drawn.id, graph)
        label = drawn.group if one is None else opened.label(one.id)
        effect = graph.logits[numbers, 0].sum() if numbers and graph.logits.numel() else None
        return {
            "id": drawn.id, "label": label if token is None else graph.tokens[token],
            "named": bool(one and one.id in graph.labels),
            "group": drawn.group if drawn.id not in graph.numbers else "", "members": members,
            "dictionary": of.pop() if len(of) == 1 else "", "index": None if one is None else one.index,
            "pos": None if one is None else one.pos, "activation": None if one is None else one.activation,
            "effect": None if effect is None else finite(float(effect)),
        }  # fmt: skip

    def _members(self, opened: OpenedGraph, drawn: NetworkNode) -> list[str]:
        if drawn.id in opened.graph.numbers:
            return [drawn.id]
        return [] if not drawn.group else [*group_of(opened.graph, drawn.group).nodes]

    def _page(self, opened: OpenedGraph, name: str, index: int) -> NodePage:
        """What the dictionary says of a feature, and what an atlas of it does."""
        dictionary, model = opened.dictionaries[name], opened.loaded.model
        told: NodePage = {"raised": [], "lowered": [], "address": None, "atlas": None, "examples": None}
        if in_stream(model.sites.parse(dictionary.write_site)):
            ends = poles(opened.loaded, dictionary.write[[index]].float())[0]
            told["raised"], told["lowered"] = ends["top"], ends["bottom"]
        atlas = self._features.latest_of(dictionary.hash)
        if atlas is not None:
            made = page_of(model, atlas.atlas, index, dictionary, effects=False)
            limit = max([abs(v) for one in made.top for v in one.values if v == v] or [1.0])
            told["address"], told["atlas"] = made.address, atlas.kept.name
            told["examples"] = made.contexts(made.top[:5], 0, "", limit=limit).to_dict()
        return told

    def _code(self, opened: OpenedGraph, asked: Mapping[str, Any]) -> str:
        kept = opened.kept
        lines = [kept.code or f"import residscope as rs\n\ngraph = rs.load_item({f'{kept.name}.safetensors'!r})"]
        if asked:
            said = ", ".join(f"{key}={value!r}" for key, value in asked.items())
            made = "graph" if not kept.code else "result"
            lines.append(
                f"from residscope.graph.pruning.prune import prune\n\nless = prune({made}, {said})\nprint(less)"
            )
        return "\n".join(lines)


def _alone(opened: OpenedGraph, number: int) -> GraphNode:
    """A node by itself, as the picture has those that it draws."""
    graph, node = opened.graph, opened.graph.nodes[number]
    effect = float(graph.logits[number, 0]) if graph.logits.numel() else float("nan")
    return {
        "id": node.id, "label": opened.label(node.id), "named": node.id in graph.labels, "group": "", "members": [node.id],
        "dictionary": node.dictionary, "index": node.index, "pos": node.pos, "activation": finite(node.activation),
        "effect": finite(effect),
    }  # fmt: skip


def token_of(id: str, graph: Graph) -> int | None:
    """Which of the graph's next tokens a node of its picture is; None of a feature or a group."""
    place, _, number = id.partition("/")
    return int(number) if place == NEXT and number.isdigit() and int(number) < len(graph.tokens) else None


def _weight(graph: Graph, members: Sequence[str], target: str, drawn: float) -> float:
    """An edge as the graph has it: of one to a next token, which is drawn on another scale, the effect on it, in nats."""
    token = token_of(target, graph)
    if token is None:
        return drawn
    return float(graph.logits[[graph.numbers[id] for id in members], token].nan_to_num().sum())


def own_part(model: Model, placed: Placed) -> Dictionary | None:
    """The model's own heads or neurons, where a dictionary of a graph is that."""
    site = model.sites.parse(placed.read_site)
    make = {"z": heads, "mlp_post": neurons}.get(site.name)
    if make is None or site.layer is None:
        return None
    part = make(model, site.layer)
    return part if part.hash == placed.hash else None


def how_of(graph: Graph) -> str:
    """How its edges were found, in a sentence."""
    told = graph.provenance
    where = "at each position by itself" if told.get("ablate") == "each" else "wherever it is active"
    scale = float(told.get("scale", 0.0))
    does = "taken out" if scale == 0 else f"multiplied by {scale:g}"
    by = str(told.get("by", "exact"))
    sure = "measured, each by a run of its own" if by == "exact" else f"estimated ({by}), not measured"
    return f"Each feature is {does} {where}, and every later one read again: {sure}."


def missing_of(graph: Graph, name: str) -> str:
    """A dictionary of a graph in words, with its hash."""
    placed = next(one for one in graph.placed if one.id == name)
    return f"{placed.id} (reads {placed.read_site}, {placed.features} features, sha256 {placed.hash[:16]})"


def _placed(opened: OpenedGraph, number: int) -> GraphDictionary:
    placed = opened.graph.placed[number]
    missing = None
    try:
        opened.need(placed.id)
    except NotFound as error:
        missing = str(error)
    return {
        "id": placed.id, "read_site": placed.read_site, "write_site": placed.write_site, "features": placed.features,
        "active": placed.active, "unexplained": finite(placed.unexplained), "here": opened.ids.get(placed.id),
        "missing": missing,
    }  # fmt: skip


def _near(opened: OpenedGraph, edges: torch.Tensor, ends: torch.Tensor) -> list[Neighbour]:
    """The other ends of some edges, the strongest first."""
    graph, numbers = opened.graph, edges.nonzero()[:, 0]
    order = graph.weight[numbers].abs().argsort(descending=True, stable=True)[:MOST_NEAR]
    ids = [graph.nodes[int(ends[i])].id for i in numbers[order]]
    weights = graph.weight[numbers[order]].tolist()
    return [{"id": id, "label": opened.label(id), "weight": w} for id, w in zip(ids, weights, strict=True)]


def _exact_of(graph: Graph) -> dict[tuple[str, str], float]:
    """Of an estimate the edges that were measured."""
    if not len(graph.exact):
        return {}
    ids = [node.id for node in graph.nodes]
    rows = zip(graph.source.tolist(), graph.target.tolist(), graph.exact.tolist(), strict=True)
    return {(ids[a], ids[b]): value for a, b, value in rows if value == value}


def _ints(value: Any) -> list[int] | None:
    return [*map(int, value)] if isinstance(value, list | tuple) else None


def _together(labels: list[str]) -> str:
    """A name for several: their own, of many the first."""
    more = len(labels) - MOST_NAMED
    return ", ".join(labels[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
