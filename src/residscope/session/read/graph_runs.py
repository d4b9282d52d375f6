"""An edge of a graph, run again: its source is taken out, its target read, and the next token with it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residscope.errors import Cancelled, GraphError, ResidscopeError
from residscope.graph.exact import Source, removed
from residscope.graph.graph import Graph
from residscope.graph.setting import Setting
from residscope.manifest import find_method
from residscope.progress import asking
from residscope.session.read.askers import Askers
from residscope.session.read.graph_shapes import GraphEdgeRun, GraphLeft, MovedToken
from residscope.session.read.graphs import Graphs, OpenedGraph, token_of
from residscope.session.state import State

KEPT_SETTINGS, TOP = 2, 10


class GraphRuns:
    """now: the session's state; graphs: those of its shelf; quiet: waits until no live run does.

    Of each asker (a page has a name of its own) only the latest question is answered: the one before is refused with Cancelled.
    """

    def __init__(self, now: Callable[[], State], graphs: Graphs, quiet: Callable[[], object]) -> None:
        self._now, self._graphs, self._quiet = now, graphs, quiet
        self._askers = Askers()
        self._settings: OrderedDict[tuple[Any, ...], Setting] = OrderedDict()

    def measure(self, name: str, source: str, target: str, *, asker: str = "") -> GraphEdgeRun:
        """What taking a node out (all of a group's) does to another, and to the next token. Of a token that alone is said.

        Raises:
            NotFound: no such node, a dictionary that is not here. GraphError: a prompt that cannot be read again.
            Cancelled: the asker has asked for something else since, or has left.
        """
        opened = self._graphs.open(name)
        graph = opened.graph
        out = opened.members(source)
        token = token_of(target, graph)
        into = opened.members(target) if token is None else []
        opened.need(*(placed.id for placed in graph.placed))
        with self._askers.asking(asker) as passed:

            def tell(done: int | None = None) -> None:
                if passed():
                    raise Cancelled("something else has been asked for since", fix="ask for it again")

            self._quiet()
            with asking(tell, tell):
                setting = self._setting(opened)
                return {"item": name, "source": source, "target": target, **_run(setting, graph, out, into, token)}  # type: ignore[typeddict-item]

    def leave(self, asker: str) -> GraphLeft:
        """Nobody waits for what this asker asked for last."""
        return {"left": self._askers.leave(asker)}

    def forget(self) -> None:
        self._settings.clear()

    def _setting(self, opened: OpenedGraph) -> Setting:
        graph, model = opened.graph, opened.loaded.model
        ids, background = ids_of(opened), self._background(opened)
        key = (model.hash, model, tuple(ids), tuple(p.hash for p in graph.placed), repr(background))
        held = self._settings.pop(key, None) or Setting.of(model, ids, dict(opened.dictionaries), background)
        self._settings[key] = held
        while len(self._settings) > KEPT_SETTINGS:
            self._settings.popitem(last=False)
        return held

    def _background(self, opened: OpenedGraph) -> tuple[Any, ...]:
        """The edits under which a graph was drawn, where its item says."""
        kept, world = opened.kept, self._now().world()
        if not kept.method or not kept.args.get("background"):
            return ()
        method = find_method(kept.method)
        argument = next((one for one in method.arguments if one.name == "background"), None)
        if argument is None:
            return ()
        found = argument.field.resolve(getattr(method.check(dict(kept.args)), argument.wire), world)
        return tuple(found or ())


def ids_of(opened: OpenedGraph) -> list[int]:
    """The tokens of a graph's prompt: those that it says, else those that its text is. Raises GraphError."""
    graph, model = opened.graph, opened.loaded.model
    ids = graph.provenance.get("ids")
    if isinstance(ids, list | tuple) and model.token_texts([*map(int, ids)]) == [*graph.prompt]:
        return [*map(int, ids)]
    for bos in (None, True, False):
        try:
            found: list[int] = model.tokens("".join(graph.prompt), bos=bos)[0].tolist()
        except ResidscopeError:
            continue
        if model.token_texts(found) == [*graph.prompt]:
            return found
    raise GraphError(
        "the graph's prompt is not read as its tokens by this model",
        received=repr("".join(graph.prompt))[:200],
        fix="draw the graph again",
    )


def _run(setting: Setting, graph: Graph, out: list[str], into: list[str], token: int | None) -> dict[str, Any]:
    """token: which of the graph's next tokens is read where no features are: then the numbers are log-probabilities."""
    levels = {level.id: level for level in setting.levels}
    scale = float(graph.provenance.get("scale", 0.0))
    nodes = [graph.nodes[graph.numbers[id]] for id in out]
    edits = [
        removed(levels[node.dictionary], Source(node.index, node.pos), keep=setting.keep, scale=scale) for node in nodes
    ]
    targets = [graph.nodes[graph.numbers[id]] for id in into]
    if any(node.is_error for node in targets):
        raise GraphError("what a dictionary leaves out is no activation that could be read", received=", ".join(into))
    sites = [*dict.fromkeys(levels[node.dictionary].read_site for node in targets)]
    model = setting.model
    record = model.run(
        setting.batch, capture=sites or [setting.levels[-1].read_site], edits=(*setting.background, *edits)
    )
    base = without = 0.0
    edges = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(graph.source, graph.target, strict=True))}
    joined = [edges[a, b] for a in _numbers(graph, out) for b in _numbers(graph, into) if (a, b) in edges]
    for node in targets:
        level = levels[node.dictionary]
        at = node.pos if node.pos is not None else _read_at(graph, joined, node.id, setting.last)
        x = record[level.read_site][0].reshape(len(setting.keep), -1)
        after = float(level.dictionary.encode(x, model=model)[at, node.index])
        base += float(level.coordinates[at, node.index])
        without += after
    before, then = (run.logits_at()[0].float().log_softmax(-1).cpu() for run in (setting.record, record))
    weight = float(graph.weight[joined].sum()) if joined else 0.0
    if token is not None:
        id = model.token_id(graph.tokens[token])
        base, without = float(before[id]), float(then[id])
        weight = float(graph.logits[_numbers(graph, out), token].nan_to_num().sum())
    return {
        "weight": weight,
        "measured": base - without,
        "base": base,
        "without": without,
        "tokens": _moved(model, before, then),
        "kl": float((before.exp() * (before - then)).sum().clamp_min(0)),
    }


def _read_at(graph: Graph, joined: list[int], target: str, last: int) -> int:
    """Where the edge into a node is read."""
    number = graph.numbers[target]
    return next((int(graph.of[i]) for i in joined if int(graph.target[i]) == number), last)


def _moved(model: Any, before: Float[Tensor, " token"], then: Float[Tensor, " token"]) -> list[MovedToken]:
    ids = [*dict.fromkeys([*before.topk(TOP).indices.tolist(), *then.topk(TOP).indices.tolist()])]
    ids.sort(key=lambda id: -max(float(before[id]), float(then[id])))
    texts = model.token_texts(ids)
    return [
        {"id": id, "text": text, "base": float(before[id].exp()), "without": float(then[id].exp())}
        for id, text in zip(ids, texts, strict=True)
    ]


def _numbers(graph: Graph, ids: list[str]) -> list[int]:
    return [graph.numbers[id] for id in ids]
