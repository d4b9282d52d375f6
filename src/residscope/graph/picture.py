"""A graph as a picture: its strongest edges laid out in levels, the next tokens on top, and tables of what it says."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import torch

from residscope.graph.agreement import beside
from residscope.graph.graph import PICTURES, Graph
from residscope.graph.layout import layered
from residscope.graph.nodes import Node
from residscope.shown_tokens import visible
from residscope.views import Grid, Network, NetworkEdge, NetworkNode, Table, View

MOST_NODES, MOST_EDGES = 300, 900
ROWS = 40  # of the tables
MOST_COLUMNS = 32  # of a longer prompt, only tokens that have nodes are columns
PER_TOKEN = 10  # edges to each of the next tokens, the strongest
PER_NAMED = 5  # edges of a node that people named or grouped, kept before others
CLIP = 0.98  # the share of edges that the scale covers
NEXT = "next token"


def picture(
    graph: Graph, *, nodes: int = MOST_NODES, edges: int = MOST_EDGES, home: str = "", tables: bool = True
) -> View:
    """The graph's strongest part as a `Network`, and beside it tables of its edges and of its effects on the next token.

    nodes, edges: at most so many are drawn: of the edges between any two dictionaries the k strongest, k as large as that
    allows; what is left out is said. home: the address of a workbench, which links lead to; a file from elsewhere keeps its own.
    """
    shown = strongest(graph, nodes, edges)
    title = f"Causal graph of {''.join(graph.prompt)[-60:]!r}"
    network = network_of(shown, left_out=left_out(graph, shown), home=home, title="" if tables else title)
    return Grid([network, *tables_of(graph)], columns=1, title=title) if tables else network


def strongest(graph: Graph, nodes: int = MOST_NODES, edges: int = MOST_EDGES) -> Graph:
    """All of it where it has no more nodes and edges; else the k strongest edges between any two dictionaries, for the largest k.

    The strongest edges of nodes that people named or grouped come first.
    """
    if len(graph.nodes) <= nodes and len(graph.weight) <= edges:
        return graph
    level = {placed.id: i for i, placed in enumerate(graph.placed)}
    source, target = graph.source.tolist(), graph.target.tolist()
    levels = [level.get(node.dictionary, 0) for node in graph.nodes]
    named = {graph.numbers.get(id) for id in (*graph.labels, *(id for group in graph.groups for id in group.nodes))}
    touching = [next((end for end in pair if end in named), None) for pair in zip(source, target, strict=True)]
    first = [edge for edge, rank in enumerate(_ranks(touching)) if touching[edge] is not None and rank < PER_NAMED]
    rank = _ranks([(levels[a], levels[b]) for a, b in zip(source, target, strict=True)])
    low, high = 1, max(rank, default=0) + 1
    while low < high:
        k = (low + high + 1) // 2
        kept = {*first, *(edge for edge, place in enumerate(rank) if place < k)}
        used = {end for edge in kept for end in (source[edge], target[edge])}
        low, high = (k, high) if len(used) <= nodes and len(kept) <= edges else (low, k - 1)
    order = [*first, *(edge for edge, place in enumerate(rank) if place < low)]
    return graph.with_edges(torch.tensor(_within(graph, order, nodes, edges), dtype=torch.int64))


def _ranks(of: Sequence[Hashable]) -> list[int]:
    """Of each edge, how many stronger ones are of the same."""
    seen: Counter[Hashable] = Counter()
    ranks = []
    for one in of:
        ranks.append(seen[one])
        seen[one] += 1
    return ranks


def _within(graph: Graph, order: Iterable[int], nodes: int, edges: int) -> list[int]:
    """Of edges in this order those that fit: one between any two dictionaries may be too many."""
    chosen: set[int] = set()
    used: set[int] = set()
    for edge in order:
        ends = {int(graph.source[edge]), int(graph.target[edge])}
        if edge not in chosen and len(chosen) < edges and len(used | ends) <= nodes:
            chosen.add(edge)
            used |= ends
    return sorted(chosen)


def left_out(graph: Graph, shown: Graph) -> str:
    """What the picture does not show, in words; empty where it shows all."""
    if len(shown.weight) == len(graph.weight) and len(shown.nodes) == len(graph.nodes):
        return ""
    return (
        f"The strongest edges between any two dictionaries: {len(shown.nodes):,} of {len(graph.nodes):,} nodes, "
        f"{len(shown.weight):,} of {len(graph.weight):,} edges. A file of the graph has all of them."
    )


@dataclass(frozen=True)
class Box:
    """What one box of the picture stands for: a node, or the nodes of a group."""

    id: str
    label: str
    members: tuple[int, ...]
    group: str = ""


def network_of(graph: Graph, *, left_out: str = "", home: str = "", title: str = "") -> Network:
    """All of a graph as a `Network`; nodes of a group are one box, with the sum of their edges."""
    boxes = boxes_of(graph)
    box_of = {member: i for i, box in enumerate(boxes) for member in box.members}
    edges: dict[tuple[int, int], float] = {}
    for a, b, weight in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        pair = (box_of[a], box_of[b])
        if pair[0] != pair[1]:
            edges[pair] = edges.get(pair, 0.0) + weight
    clip = _clip(list(edges.values()))
    tops, reach = token_edges(graph, boxes, {a for a, _ in edges})
    levels, columns, names = _levels(graph, boxes)
    layout = layered(
        [*levels, *[len(graph.placed)] * len(graph.tokens)],
        [(*pair, weight) for pair, weight in edges.items()]
        + [(box, len(boxes) + token, clip * nats / reach) for box, token, nats in tops],
        None if columns is None else [*columns, *[max([*columns, 0])] * len(graph.tokens)],
    )
    shown = [
        NetworkNode(
            box.id, box.label, layout.x[i], layout.y[i], _value(graph, box), box.group, told(graph, box),
            _link(graph, box, home), all(graph.nodes[m].is_error for m in box.members),
        )
        for i, box in enumerate(boxes)
    ] + [
        NetworkNode(f"next/{i}", repr(token), layout.x[len(boxes) + i], layout.y[len(boxes) + i], text=_chance(graph, i))
        for i, token in enumerate(graph.tokens)
    ]  # fmt: skip
    labels = [box.label for box in boxes] + [repr(token) for token in graph.tokens]
    drawn = [NetworkEdge(a, b, w, f"{labels[a]} → {labels[b]}: {w:+.3g}") for (a, b), w in edges.items()]
    drawn += [
        NetworkEdge(a, len(boxes) + t, clip * nats / reach, f"{labels[a]} → {graph.tokens[t]!r}: {nats:+.3g} nats")
        for a, t, nats in tops
    ]
    scale = f"Edges to the next tokens are in nats, full at {reach:.3g}." if tops else ""
    return Network(
        shown, drawn, levels=_once([NEXT if row == len(graph.placed) else names[row] for row in layout.rows], layout.rows),
        columns=_once([visible(graph.prompt[c]) if c < len(graph.prompt) else str(c) for c in layout.places], layout.places),
        title=title, unit=str(graph.provenance.get("unit", "activation")),
        node_unit=f"nats on {graph.tokens[0]!r}" if graph.tokens else "", limit=clip if drawn else None,
        note=" ".join(filter(None, [left_out, scale, _shared(graph), graph.note])),
    )  # fmt: skip


def boxes_of(graph: Graph) -> list[Box]:
    """The groups, each of the members that are here, and the nodes that are in none."""
    grouped: dict[int, str] = {}
    for group in graph.groups:
        for id in group.nodes:
            if id in graph.numbers:
                grouped.setdefault(graph.numbers[id], group.name)
    boxes = [Box(node.id, label_of(graph, node), (i,)) for i, node in enumerate(graph.nodes) if i not in grouped]
    for name in dict.fromkeys(grouped.values()):
        members = tuple(i for i in sorted(grouped) if grouped[i] == name)
        boxes.append(Box(f"group/{name}", name, members, name))
    return boxes


def label_of(graph: Graph, node: Node) -> str:
    """A person's name for it, else the dictionary's, else `layer.index`."""
    if node.id in graph.labels:
        return graph.labels[node.id]
    layer = next((placed.layer for placed in graph.placed if placed.id == node.dictionary), None)
    plain = not node.label or node.label.rpartition(" ")[2] == str(node.index)
    return f"{layer}.{node.index}" if plain and layer is not None and not node.is_error else node.label or node.id


def token_edges(graph: Graph, boxes: Sequence[Box], sources: set[int]) -> tuple[list[tuple[int, int, float]], float]:
    """Edges to the next tokens, (box, token, nats), and the largest: of direct effects all; of whole ones, which run along
    the graph's own edges, only those of boxes that no edge leaves."""
    found = []
    direct = is_direct(graph)
    for i, box in enumerate(boxes):
        if direct or i not in sources:
            effect = graph.logits[list(box.members)].nan_to_num().sum(0).tolist()
            found += [(i, token, nats) for token, nats in enumerate(effect) if nats]
    found.sort(key=lambda edge: (-abs(edge[2]), *edge[:2]))
    found = [
        edge for token in range(len(graph.tokens)) for edge in [one for one in found if one[1] == token][:PER_TOKEN]
    ]
    found.sort(key=lambda edge: -abs(edge[2]))
    return found, abs(found[0][2]) if found else 1.0


def is_direct(graph: Graph) -> bool:
    """Whether its effects on next tokens are direct ones, which run along no edge of the graph: an attribution graph's."""
    return graph.provenance.get("effects") == "direct" or graph.provenance.get("by") == "attribution"


def tables_of(graph: Graph) -> list[View]:
    """The strongest edges, and the nodes that move the next token most."""
    names = [_named(graph, node) for node in graph.nodes]
    edges = zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)
    rows = [[names[a], names[b], w] for (a, b, w), _ in zip(edges, range(ROWS), strict=False)]
    columns = ["from", "to", "raises by"]
    if len(graph.exact):
        columns.append("exactly")
        rows = [[*row, exact] for row, exact in zip(rows, graph.exact.tolist(), strict=False)]
    shown: list[View] = [Table(columns, rows, title="Strongest edges", note=graph.note)]
    known = (
        (~graph.logits.isnan()).any(1).nonzero()[:, 0] if graph.logits.numel() else torch.zeros(0, dtype=torch.int64)
    )
    if len(known):
        size = graph.logits[known].nan_to_num().abs().amax(1)
        order = known[size.argsort(descending=True, stable=True)][:ROWS].tolist()
        nodes = [[names[i], *graph.logits[i].tolist()] for i in order]
        title = "What each adds to the log-probability of the next token"
        if is_direct(graph):
            of = "log-probability" if "by" in graph.provenance else "logit"
            title = f"What each adds to the {of} of the next token, directly"
        shown.append(Table(["node", *map(repr, graph.tokens)], nodes, title=title))
    measured = beside(graph.weight, graph.exact, str(graph.provenance.get("by", ""))) if len(graph.exact) else None
    return shown if measured is None else [*shown, measured]


def _named(graph: Graph, node: Node) -> str:
    own = graph.labels.get(node.id)
    return f"{node.id} ({own})" if own else node.id


def _levels(graph: Graph, boxes: Sequence[Box]) -> tuple[list[int], list[int] | None, list[str]]:
    """The level and the column of each box (a group's: of its middle member), and the levels' names."""
    names = [placed.id for placed in graph.placed]
    level = {id: i for i, id in enumerate(names)}
    middle = [
        graph.nodes[sorted(box.members, key=lambda m: _key(graph, m, level))[len(box.members) // 2]] for box in boxes
    ]
    levels = [level.get(node.dictionary, 0) for node in middle]
    columns = [node.pos for node in middle if node.pos is not None]
    if not columns:
        return levels, None, names
    last = max(len(graph.prompt) - 1, *columns)
    return levels, [last if node.pos is None else node.pos for node in middle], names


def _key(graph: Graph, member: int, level: dict[str, int]) -> tuple[int, int, int]:
    node = graph.nodes[member]
    return level.get(node.dictionary, 0), -1 if node.pos is None else node.pos, member


def _once(labels: Sequence[str], of: Sequence[int]) -> list[str]:
    """Each label where what it is of begins, and nothing at the rest."""
    return ["" if i and of[i] == of[i - 1] else label for i, label in enumerate(labels)]


def _clip(weights: Sequence[float]) -> float:
    sizes = sorted(abs(w) for w in weights)
    typical = sizes[min(len(sizes) - 1, int(CLIP * len(sizes)))] if sizes else 0.0
    return typical or (sizes[-1] if sizes else 0.0) or 1.0


def _value(graph: Graph, box: Box) -> float | None:
    """Its effect on the first next token."""
    if not graph.tokens:
        return None
    effect = graph.logits[list(box.members), 0]
    return None if effect.isnan().all() else float(effect.nan_to_num().sum())


def told(graph: Graph, box: Box) -> str:
    """What is said of a box where it is pointed at."""
    if box.group:
        return f"{box.group}: {', '.join(_named(graph, graph.nodes[m]) for m in box.members)}"
    node = graph.nodes[box.members[0]]
    words = [node.id, *([node.label] if node.label and node.label != box.label else [])]
    if node.pos is not None and node.pos < len(graph.prompt):
        words.append(f"at {graph.prompt[node.pos]!r}")
    if node.activation == node.activation:
        words.append(f"{'length' if node.is_error else 'activation'} {node.activation:.3g}")
    effects = zip(graph.tokens, graph.logits[box.members[0]].tolist(), strict=True)
    words += [f"{token!r} {nats:+.3g} nats" for token, nats in effects if nats == nats]
    return "; ".join(words)


def _shared(graph: Graph) -> str:
    """That a file from elsewhere had one id for two nodes."""
    ids = graph.provenance.get("shared_ids") or ()
    return f"Its file has one id for a feature and an error: {', '.join(map(str, ids))[:200]}." if ids else ""


def _chance(graph: Graph, token: int) -> str:
    return f"{graph.tokens[token]!r}: probability {float(graph.base[token].exp()):.3g}"


def _link(graph: Graph, box: Box, home: str) -> str:
    """Where a feature is shown: at the place that the graph's file names, else on the workbench."""
    node = graph.nodes[box.members[0]]
    placed = next((placed for placed in graph.placed if placed.id == node.dictionary), None)
    if box.group or node.is_error or placed is None or not placed.read_site:
        return ""
    pattern = graph.provenance.get("link")
    if isinstance(pattern, str) and pattern.startswith("https://") and placed.id in graph.provenance.get("linked", ()):
        return pattern.replace("{layer}", str(placed.layer)).replace("{index}", str(node.index))
    model = graph.provenance.get("model")
    if not isinstance(model, str) or not placed.hash:
        return ""
    return f"{home}#feature={quote(f'sae/{model}/{placed.site}/{node.index}', safe='/.')}"


PICTURES.append(picture)
