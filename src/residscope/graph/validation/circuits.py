"""The strongest paths of a graph, as sets of nodes that have none in common."""

from residscope.graph.graph import Graph
from residscope.graph.validation.asked import features_of


def disjoint_paths(graph: Graph, n: int) -> list[tuple[str, ...]]:
    """The ids of n paths between features, the strongest first, without a node in common; fewer where there are no more.

    Each begins with the strongest edge |w| whose ends are free, and goes on from both ends by the strongest edge to a free node.
    Of a graph without edges each feature is one.
    """
    ids, features = [node.id for node in graph.nodes], features_of(graph)
    real = {*features}
    pairs = zip(graph.source.tolist(), graph.target.tolist(), strict=True)
    edges = [(a, b) for a, b in pairs if ids[a] in real and ids[b] in real]  # strongest first
    if not edges:
        return [(id,) for id in features[:n]]
    into: dict[int, list[int]] = {}
    out: dict[int, list[int]] = {}
    for a, b in edges:
        into.setdefault(b, []).append(a)
        out.setdefault(a, []).append(b)
    used: set[int] = set()

    def free(nodes: list[int]) -> int | None:
        return next((node for node in nodes if node not in used), None)

    paths: list[tuple[str, ...]] = []
    for a, b in edges:
        if len(paths) == n:
            break
        if a in used or b in used:
            continue
        path = [a, b]
        used |= {a, b}
        while (before := free(into.get(path[0], []))) is not None:
            path.insert(0, before)
            used.add(before)
        while (after := free(out.get(path[-1], []))) is not None:
            path.append(after)
            used.add(after)
        paths.append(tuple(ids[node] for node in path))
    return paths
