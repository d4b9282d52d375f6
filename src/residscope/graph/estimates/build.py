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
            told = {**told, "sum": by_attribution(drawn, reach=reach, scale=scale, **watch)}
        else:
            (by_gradient if by == "gradient" else by_integration)(drawn, reach=reach, scale=scale, **watch)
        missing = "its estimates are whole; it was cancelled before a sample of them had been measured exactly"
        graph = named_tokens(drawn.graph(told))
        if not sample or not len(graph.weight):
            return graph
        return sampled(setting, graph, sample, seed=seed, scale=scale, held=by == "attribution", memory=memory, **watch)
    except Cancelled as stop:
        stop.partial = named_tokens(drawn.graph(told, partial=missing))
        raise


def named_tokens(graph: Graph) -> Graph:
    """The graph with its embeddings called by their tokens."""

    def label(node: Node) -> str:
        return str(graph.prompt[node.pos]) if node.dictionary == "embed" and node.pos is not None else str(node.label)

    return replace(graph, nodes=tuple(replace(node, label=label(node)) for node in graph.nodes))
