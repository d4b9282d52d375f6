"""`rs.validate_graph`: what a graph's nodes do together, beside controls, in other amounts, in other texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from residscope import fields
from residscope.corpus.text import Source, called, opened
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import LeastEdit
from residscope.errors import Cancelled
from residscope.graph.graph import Graph
from residscope.graph.prune import prune
from residscope.graph.validation.asked import asked, check, features_of, nodes_of
from residscope.graph.validation.circuits import disjoint_paths
from residscope.graph.validation.others import elsewhere, in_contexts
from residscope.graph.validation.own import in_its_prompt
from residscope.graph.validation.report import Validation
from residscope.progress import Cancel, Progress

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def price(
    model: Model,
    graph: Graph,
    dictionaries: Any,
    *,
    random_texts: int = 200,
    length: int = 16,
    contexts: Any = (),
    controls: int = 20,
    scales: Sequence[float] = SCALES,
    circuits: Any = 4,
    **_: Any,
) -> float:
    """Tokens that go through the whole model, about: the prompt once a cell, and each text once a set of features."""
    sets = circuits if isinstance(circuits, int) else len(circuits)
    others = 1 if isinstance(contexts, str) else len(contexts or ())
    cells = 3 + len(scales) + 4 * controls
    return float(cells * len(graph.prompt) + random_texts * length * (2 + sets) + 3 * length * others)


@method(
    "validate-graph",
    title="Validate a graph",
    group="graphs",
    refuse=check,
    tokens=price,
    steps=lambda *given, **named: validating(*given, **named),
)
def validate_graph(
    model: Model,
    graph: Annotated[Graph, fields.item(of=Graph.kind, title="graph")],
    dictionaries: Annotated[
        Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary, fields.dictionary(several=True)
    ],
    *,
    nodes: Sequence[str] | None = None,
    influence: Annotated[
        float | None, fields.number(low=0.01, high=1, help="the nodes that hold this share of the influence on it")
    ] = None,
    target: Annotated[str | int | None, fields.tokens(title="target", help="the next token that it is about")] = None,
    texts: Annotated[Source, fields.text(title="unrelated texts")] = "english",
    random_texts: Annotated[int, fields.count(low=0, high=10_000, help="windows of them")] = 200,
    length: Annotated[int, fields.count(low=2, high=1024, help="tokens of each window")] = 16,
    contexts: Annotated[Prompt, fields.prompts(title="contexts", help="other prompts that fit its meaning")] = (),
    controls: Annotated[int, fields.count(low=1, high=1000, help="random draws of each kind")] = 20,
    circuits: Annotated[
        int | Sequence[Sequence[str]], fields.count(low=0, high=50, help="the strongest paths, taken out together")
    ] = 4,
    scales: Sequence[float] = SCALES,
    seed: Annotated[int, fields.seed()] = 0,
    background: Annotated[Sequence[LeastEdit], fields.edits()] = (),
    prompt: Prompt | None = None,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Validation:
    """Whether a causal graph means anything: its nodes taken out, kept alone and scaled, beside controls, and in other texts.

        without     y + sum_i -a_i write_i        over the nodes, at each of their dictionaries, as this run has them
        only        the same over all other features of these dictionaries; none: over all of them
        faithfulness = (m(only) - m(none)) / (m(whole) - m(none)),    m = log p(target)

    What the dictionaries leave out stays in every run. nodes: ids, or names of the graph's groups; unless said the fewest that
    hold a share `influence` of the influence on the next token (as `graph.prune` has it), or all features of the graph. target:
    the likeliest of the graph's tokens, unless said. controls: so many draws of three kinds: as many features that are active
    too and write about as much, of the same dictionaries at the same positions; as many by number alone (Udell, 2024); random
    directions, as long as what goes with the nodes. scales: the nodes are held at so many times what they are. contexts: prompts
    that fit the graph's meaning, each judged by its own likeliest token. texts: unrelated ones, of which `random_texts` windows
    of `length` tokens are drawn; there a feature is taken out wherever it is active. circuits: so many of the graph's strongest
    paths, or lists of node ids: taken out of those texts together, the first, the first two, and so on. prompt: the graph's own,
    where it does not know it.

    A graph whose nodes were chosen by their effect on the target goes beyond random controls by that choice alone: what it does
    in `contexts`, and whether it is enough, says more.

        rs.validate_graph(model, graph, dictionaries, influence=0.5, contexts=["..."]).view()

    Raises:
        WrongModel: a graph of another model. GraphError: of other dictionaries, nodes that it does not have. NoFeatures: none of
        them is active. UnknownToken. CorpusError: no such text. Cancelled: with what there is of it as its `partial`.
    """
    latest: Validation | None = None
    stages = validating(
        model, graph, dictionaries, nodes=nodes, influence=influence, target=target, texts=texts, random_texts=random_texts,
        length=length, contexts=contexts, controls=controls, circuits=circuits, scales=scales, seed=seed, background=background,
        prompt=prompt, memory=memory, progress=progress, cancel=cancel,
    )  # fmt: skip
    try:
        for known in stages:
            latest = known
    except Cancelled as stop:
        stop.partial = latest
        raise
    assert latest is not None
    return latest


def validating(
    model: Model,
    graph: Graph,
    dictionaries: Any,
    *,
    nodes: Sequence[str] | None = None,
    influence: float | None = None,
    target: str | int | None = None,
    texts: Source = "english",
    random_texts: int = 200,
    length: int = 16,
    contexts: Prompt = (),
    controls: int = 20,
    circuits: int | Sequence[Sequence[str]] = 4,
    scales: Sequence[float] = SCALES,
    seed: int = 0,
    background: Sequence[LeastEdit] = (),
    prompt: Prompt | None = None,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[Validation]:
    """`validate_graph`, stage by stage: its own prompt and the controls, other prompts, other texts."""
    if nodes is None and influence is not None:
        on = [target] if isinstance(target, str) and target in graph.tokens else None
        nodes = features_of(prune(graph, influence=influence, tokens=on))
    what = asked(model, graph, dictionaries, prompt=prompt, nodes=nodes, target=target, background=background)
    watch: dict[str, Any] = {"memory": memory, "progress": progress, "cancel": cancel}
    paths = _circuits(graph, circuits)
    texts = list(texts) if isinstance(texts, Iterator) else texts
    source = opened(texts, model) if random_texts else None
    known = in_its_prompt(what, controls=controls, scales=scales, seed=seed, **watch)
    waiting = {"contexts": "none were given"} if _none(contexts) else {}
    waiting |= {"elsewhere": "none were asked for"} if source is None else {}
    about = {"controls": controls, "seed": seed, "texts": None if source is None else called(source), "length": length}
    known = replace(
        known,
        circuits=tuple(paths),
        missing={**known.missing, **waiting},
        provenance={**known.provenance, **about},
    )
    yield known
    if not _none(contexts):
        known = replace(known, contexts=in_contexts(what, contexts, **watch))
        yield known
    if source is not None:
        how: dict[str, Any] = {"n": random_texts, "length": length, "seed": seed}
        yield replace(known, elsewhere=elsewhere(what, graph, source, paths, **how, **watch))


def _circuits(graph: Graph, circuits: int | Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    if isinstance(circuits, int):
        return disjoint_paths(graph, circuits)
    found = [tuple(path) for path in circuits]
    for path in found:
        nodes_of(graph, path)
    return found


def _none(contexts: Any) -> bool:
    return contexts is None or (isinstance(contexts, list | tuple) and not contexts)
