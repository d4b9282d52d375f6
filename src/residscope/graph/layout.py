"""Where the nodes of a graph are drawn: a level each dictionary, its features in an order that keeps edges short."""

from residscope.graph.graph import Graph
from residscope.views import Network, NetworkEdge, NetworkNode

SWEEPS = 6


def network(graph: Graph, *, least: float = 0, nodes: int = 300) -> Network:
    """The graph as a picture: at most so many nodes, those of the strongest edges; edges of at least this size."""
    ends: dict[str, None] = {}
    edges: dict[tuple[str, str], float] = {}
    inside = {id: group.name for group in graph.groups for id in group.nodes}
    ids = [node.id for node in graph.nodes]
    drawn = [f"group/{inside[id]}" if id in inside else id for id in ids]
    for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        if abs(w) < least or drawn[a] == drawn[b]:
            continue
        if len({*ends, drawn[a], drawn[b]}) > nodes:
            continue
        ends |= {drawn[a]: None, drawn[b]: None}
        edges[drawn[a], drawn[b]] = edges.get((drawn[a], drawn[b]), 0.0) + w
    level_of = {placed.id: i for i, placed in enumerate(graph.placed)}
    first = {name: i for i, name in reversed([*enumerate(drawn)])}
    y = {name: level_of[graph.nodes[first[name]].dictionary] for name in ends}
    x = _ordered([*ends], y, [*edges])
    made = []
    for name in ends:
        node, group = graph.nodes[first[name]], name.removeprefix("group/") if name.startswith("group/") else ""
        label = group or graph.labels.get(node.id) or node.label
        text = f"{node.id}, activation {node.activation:.3g}" if not group else f"{drawn.count(name)} nodes as one"
        made.append(NetworkNode(name, label, x[name], float(y[name]), group=group, text=text, error=node.is_error))
    place = {node.id: i for i, node in enumerate(made)}
    return Network(
        made,
        [NetworkEdge(place[a], place[b], w) for (a, b), w in edges.items()],
        levels=[f"{placed.id}" for placed in graph.placed],
        columns=[],
        title=f"Causal graph of {''.join(graph.prompt)[-60:]!r}",
        unit="activation",
        note=graph.partial,
    )


def _ordered(names: list[str], y: dict[str, int], edges: list[tuple[str, str]]) -> dict[str, float]:
    """Barycentres, up and down: a node comes to stand at the mean of those that it is joined with."""
    levels: dict[int, list[str]] = {}
    for name in names:
        levels.setdefault(y[name], []).append(name)
    near: dict[str, list[str]] = {name: [] for name in names}
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    x = {name: float(i) for row in levels.values() for i, name in enumerate(row)}
    for _ in range(SWEEPS):
        for row in levels.values():
            mean = {name: sum(x[n] for n in near[name]) / len(near[name]) if near[name] else x[name] for name in row}
            row.sort(key=lambda name: mean[name])
            for i, name in enumerate(row):
                x[name] = float(i)
    widest = max(map(len, levels.values()), default=1)
    return {name: (i + 0.5) * widest / len(row) for row in levels.values() for i, name in enumerate(row)}
