"""An estimated graph: its edges by one of the gradient methods, its effects on next tokens, and exact values of a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from residscope.errors import Cancelled
from residscope.graph.drawn import Drawn, LogProbs, tokens_of
from residscope.graph.estimates.gradients import by_gradient, by_integration
from residscope.graph.estimates.linear import by_attribution, with_writers
from residscope.graph.estimates.sample import sampled
from residscope.graph.exact import sources_of
from residscope.graph.graph import Graph
from residscope.graph.nodes import Node
from residscope.graph.setting import Setting
from residscope.progress import Cancel, Progress


def estimated(
    setting: Setting,
    told: Mapping[str, Any],
    *,
    edges: int,
    errors: bool,
    tokens: int | Sequence[str | int],
    sample: int,
    seed: int,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Graph:
    """The graph by the method that is told, as `causal_graph` has it. Raises QuantisedModel, NoGradient, NotAdditive."""
    by, reach, scale = str(told["by"]), str(told["reach"]), float(told["scale"])
    setting.model.require_exact_weights("gradients")
    ids = tokens_of(setting, tokens)
    setting = with_writers(setting, tokens=bool(ids)) if by == "attribution" else setting
    at = setting.last if told["read"] == "last" else None
    drawn = Drawn(setting, at, each=told["ablate"] == "each", edges=edges, exact=False)
    for number, level in enumerate(setting.levels):
        drawn.begin(number, sources_of(level, setting.keep, each=drawn.each, errors=errors))
    if ids:
        drawn.ask_tokens(ids, LogProbs(tuple(ids))(setting.record)[0])
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    missing = "it was cancelled before every gradient had been taken"
    try:
        if by == "attribution":
            told = {**told, "effects": "direct", "sum": by_attribution(drawn, reach=reach, scale=scale, **watch)}
        else:
            (by_gradient if by == "gradient" else by_integration)(drawn, reach=reach, scale=scale, **watch)
        missing = "its estimates are whole; it was cancelled before a sample of them had been measured exactly"
        graph, held = drawn.graph(told), by == "attribution"
        if sample and len(graph.weight):
            graph = sampled(setting, graph, sample, seed=seed, scale=scale, held=held, memory=memory, **watch)
        return named_tokens(graph, setting)
    except Cancelled as stop:
        stop.partial = named_tokens(drawn.graph(told, partial=missing), setting)
        raise


def named_tokens(graph: Graph, setting: Setting) -> Graph:
    """The graph with its embeddings called by their tokens."""
    ids = setting.batch.ids[0].tolist()

    def named(node: Node) -> Node:
        if node.dictionary != "embed" or node.pos is None or not node.is_error:
            return node
        token = ids[node.pos]
        return replace(node, id=f"embed/{token}@{node.pos}", index=token, label=repr(graph.prompt[node.pos]))

    return replace(graph, nodes=tuple(map(named, graph.nodes)))
