"""Less of a graph: its strongest edges, those over a threshold, those on long paths, the nodes that matter for the next token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.errors import GraphError
from residscope.graph.graph import Graph


def prune(
    graph: Graph,
    *,
    top: int | None = None,
    per_level: int | None = None,
    least: float | None = None,
    path: int | None = None,
    influence: float | None = None,
    tokens: Sequence[str] | None = None,
) -> Graph:
    """The graph with fewer edges, and the nodes that they join. What is said is done in this order; it is deterministic.

    least: |weight| at least this. per_level: so many edges between any two dictionaries. top: so many of all. influence: the
    fewest nodes that hold this share of all influence on `tokens` (all of the graph's, unless said), as `influence_of` has it.
    path: edges on paths of at least so many edges alone.

    Raises:
        GraphError: nothing is asked, or a number out of its range; influence without effects on the next token.
    """
    asked = {"top": top, "per_level": per_level, "least": least, "path": path, "influence": influence}
    if all(value is None for value in asked.values()):
        raise GraphError("say what to prune by", received="nothing", allowed=", ".join(asked))
    for name, value in asked.items():
        if value is not None and (value < (0 if name == "least" else 1e-9) or (name == "influence" and value > 1)):
            raise GraphError(
                f"{name} is out of range", received=str(value), allowed="0 to 1" if name == "influence" else "above 0"
            )
    if least is not None:
        graph = graph.with_edges(graph.weight.abs() >= least)
    if per_level is not None:
        graph = graph.with_edges(_strongest_per_level(graph, per_level))
    if top is not None:
        graph = graph.with_edges(torch.arange(len(graph.weight)) < top)
    if influence is not None:
        share = influence_of(graph, tokens)
        order = share.argsort(descending=True, stable=True)
        enough = int((share[order].cumsum(0) < influence * share.sum()).sum()) + 1
        kept = torch.zeros(len(graph.nodes), dtype=torch.bool)
        kept[order[:enough]] = True
        graph = graph.with_edges(kept[graph.source] & kept[graph.target])
    if path is not None:
        graph = graph.with_edges(_on_paths(graph, path))
    return replace(graph, provenance={**graph.provenance, "pruned": {k: v for k, v in asked.items() if v is not None}})


def influence_of(graph: Graph, tokens: Sequence[str] | None = None) -> Float[Tensor, " node"]:
    """How far each node reaches the next token, along all paths of the graph.

        I = d + A I          A[i, j] = |w(i -> j)| / sum_i |w(i -> j)|          d = mean |effect| over tokens

    The sum of all powers of the row-normalised |weights|, as circuit-tracer prunes by (Ameisen et al., 2025, "Circuit tracing").
    Edges lead forward only, so the sum is finite and found in one pass. Raises GraphError where the effects were not measured.
    """
    chosen = list(range(len(graph.tokens))) if tokens is None else [_token(graph, token) for token in tokens]
    if not chosen or graph.logits.isnan().all():
        raise GraphError(
            "influence is on the next token, and this graph has no effects on one",
            received=repr(graph),
            fix="build it with tokens=5",
        )
    total = graph.logits[:, chosen].abs().mean(1).nan_to_num().double()
    size = graph.weight.abs().double()
    into = torch.zeros(len(graph.nodes), dtype=torch.float64).index_add_(0, graph.target, size)
    share = size / into[graph.target].clamp_min(1e-30)
    ends = _depths(graph)[graph.target]
    for level in sorted({*ends.tolist()}, reverse=True):
        at = ends == level
        total.index_add_(0, graph.source[at], share[at] * total[graph.target[at]])
    return total.float()


def _token(graph: Graph, token: str) -> int:
    if token not in graph.tokens:
        raise GraphError(
            "the graph has no effects on this token", received=repr(token), allowed=", ".join(map(repr, graph.tokens))
        )
    return graph.tokens.index(token)


def _depths(graph: Graph) -> Tensor:
    """The place of each node's dictionary in the forward."""
    place = {placed.id: i for i, placed in enumerate(graph.placed)}
    return torch.tensor([place[node.dictionary] for node in graph.nodes], dtype=torch.int64)


def _strongest_per_level(graph: Graph, most: int) -> Bool[Tensor, " edge"]:
    depth = _depths(graph)
    seen: dict[tuple[int, int], int] = {}
    keep = torch.zeros(len(graph.weight), dtype=torch.bool)
    for edge, levels in enumerate(zip(depth[graph.source].tolist(), depth[graph.target].tolist(), strict=True)):
        seen[levels] = seen.get(levels, 0) + 1
        keep[edge] = seen[levels] <= most
    return keep


def _on_paths(graph: Graph, least: int) -> Bool[Tensor, " edge"]:
    """Edges on a path of at least so many: longest path to the edge's source, itself, and longest from its target on."""
    depth = _depths(graph)
    starts, ends = depth[graph.source], depth[graph.target]
    before, after = (torch.zeros(len(graph.nodes), dtype=torch.int64) for _ in range(2))
    for level in sorted({*starts.tolist()}):
        a, b = graph.source[starts == level], graph.target[starts == level]
        before.scatter_reduce_(0, b, before[a] + 1, "amax")
    for level in sorted({*ends.tolist()}, reverse=True):
        a, b = graph.source[ends == level], graph.target[ends == level]
        after.scatter_reduce_(0, a, after[b] + 1, "amax")
    return before[graph.source] + 1 + after[graph.target] >= least
