"""Causal Graphs of GPT-2-Small's Residual Stream (Udell, 2024), taken again: everything measured, in one frozen value."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from residscope import edits
from residscope.corpus.sources.separators import document_start
from residscope.corpus.text import Source, called, opened, texts
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit
from residscope.errors import GraphError, NoTokenizer
from residscope.graph.build import causal_graph
from residscope.graph.circuits import circuits
from residscope.graph.exact import Values
from residscope.graph.graph import Graph
from residscope.graph.prune import prune
from residscope.graph.setting import Setting
from residscope.graph.shares import STRAIGHT, shares
from residscope.progress import Cancel, Progress, stage

MAIN = "Copyright"
PROMPTS: Mapping[str, tuple[str, bool]] = {
    MAIN: ("Copyright (C", False),
    "Lisp": ("In a Lisp dialect, every expression begins with ( and ends with", False),
    "report": ("According to a new report from C", True),
    "investment": ("Foreign Direct Investment (F", True),
}
"""The contexts, and whether a document begins there."""
ALL = 1_000_000  # more edges than there are
PART = 24  # tokens of a text


@dataclass(frozen=True)
class Size:
    """How much is run.

    edges: kept of each step of the graph. path: edges on a path. circuits: connected parts. draws: random circuits of each
    context. texts: random ones. coefficients: of the dose, from 0 to 4. pairs: random pairs of features, beside the strongest
    edges.
    """

    edges: int = 5
    path: int = 3
    circuits: int = 4
    draws: int = 199
    texts: int = 200
    coefficients: int = 17
    pairs: int = 500

    @classmethod
    def quick(cls) -> "Size":
        return cls(draws=9, texts=12, coefficients=5, pairs=50)


Circuit = Mapping[str, tuple[int, ...]]
"""Features by the id of their dictionary."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A circuit taken out of a context: the next token's probabilities, and what as many random active features do.

    there: how many of its features are active in the context. placed: without features 0, 1, ... of the same dictionaries, as
    many: the seed's own control. chance: the probability of the context's likeliest token without random active features.
    """

    after: Float[Tensor, " vocab"]
    there: int
    placed: Float[Tensor, " vocab"]
    chance: Float[Tensor, "draw"]


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured.

    before: the next token's probabilities by context. graph: of the main context, pruned. total, half: how many edges it had, and
    how many of the strongest hold half of all |weight|. cuts: by circuit's number and context. only: probabilities where a
    circuit alone is kept of all features, the dictionaries' errors staying. kl, shift: of random texts without a circuit: KL of
    the next token and the mean change of its log-probabilities over the even and the odd texts. dose: a later feature over
    coefficients of an earlier one. like, unlike: cosines of what features write, along the strongest edges and of random pairs.
    straight: of each of those edges, the share that came straight through the stream.
    """

    tokens: tuple[str, ...]
    prompts: Mapping[str, tuple[str, ...]]
    before: Mapping[str, Float[Tensor, " vocab"]]
    graph: Graph
    total: int
    half: int
    circuits: tuple[Circuit, ...]
    cuts: Mapping[tuple[int, str], Cut]
    only: tuple[Float[Tensor, " vocab"], ...]
    kl: tuple[Float[Tensor, " text"], ...]
    shift: tuple[Float[Tensor, "half vocab"], ...]
    dose: tuple[str, Float[Tensor, " coefficient"], Float[Tensor, " coefficient"]]
    like: Float[Tensor, " edge"]
    unlike: Float[Tensor, " pair"]
    straight: Float[Tensor, " edge"]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def graph_study(
    model: Model,
    dictionaries: Sequence[Dictionary] | Mapping[str, Dictionary],
    corpus: Source = "english",
    *,
    size: Size | None = None,
    seed: int = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Study:
    """The causal graph of "Copyright (C", its connected parts, and what each does where it is taken out: there, in the seed's
    three other contexts, in random text.

    The seed's dictionaries are of GPT-2-small's stream; these may be of any model's. A circuit is taken out at all positions but
    the first token and attention sinks: y - sum_i a_i write_i at each dictionary, read again in each run.

    Raises:
        NoTokenizer. NoFeatures, GraphError, SiteError, WrongWidth: dictionaries that do not fit. CorpusError. Cancelled.
    """
    size, began = size or Size(), time.monotonic()
    if model.tokenizer is None:
        raise NoTokenizer("the contexts are text", received="a model without a tokenizer", fix="load one with it")
    ids = {name: encoded(model, text, begins) for name, (text, begins) in PROMPTS.items()}
    settings = {name: Setting.of(model, of, dictionaries) for name, of in ids.items()}
    main = settings[MAIN]
    whole = causal_graph(
        model, ids[MAIN], dictionaries, errors=False, edges=ALL, tokens=0, progress=progress, cancel=cancel
    )
    graph = prune(whole, per_level=size.edges, path=min(size.path, len(main.levels) - 1))
    parts = [features_of(graph, one) for one in circuits(graph)[: size.circuits]]
    before = {name: probabilities(model, of) for name, of in ids.items()}
    draw = torch.Generator().manual_seed(seed)
    cuts: dict[tuple[int, str], Cut] = {}
    with stage("Taking circuits out of contexts", len(parts) * len(ids), progress, cancel) as tell:
        for number, part in enumerate(parts):
            for name, setting in settings.items():
                cuts[number, name] = cut(setting, part, before[name], size.draws, draw)
                tell(len(cuts))
    only = tuple(probabilities(model, ids[MAIN], without(main, others(main, part))) for part in parts)
    random = drawn_texts(model, corpus, size.texts, seed)
    kl, shift = zip(*(on_texts(model, main, part, random) for part in parts), strict=True)
    cosines, chance = likeness(main, graph, size.pairs, draw)
    about = {
        **model.provenance, "dictionaries": ", ".join(level.id for level in main.levels), "text": called(opened(corpus)),
        "seed": seed, "draws": size.draws, "texts": len(random), "seconds": round(time.monotonic() - began, 1),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    half = int((whole.weight.abs().cumsum(0) < whole.weight.abs().sum() / 2).sum()) + 1
    through = shares(main, graph, progress=progress, cancel=cancel)
    straight = through.select(part=STRAIGHT).values.abs() / through.values.abs().sum(1)
    return Study(
        tuple(model.token_texts(list(range(len(before[MAIN]))))), {n: tuple(model.token_texts(of)) for n, of in ids.items()},
        before, graph, len(whole.weight), half, tuple(parts), cuts, only, kl, shift, dose(main, graph, size.coefficients),
        cosines, chance, straight, about,
    )  # fmt: skip


def of_stream(loaded: object) -> list[Dictionary]:
    """Those of the stream, of what was loaded. Raises GraphError where there are fewer than two."""
    listed = [*loaded.values()] if isinstance(loaded, Mapping) else [loaded]
    found = [one for one in listed if isinstance(one, Dictionary)]
    stream = [one for one in found if str(one.read_site).startswith("resid")]
    if len(stream) < 2:
        raise GraphError(
            "the post's graph leads from one dictionary of the stream to the next",
            received=", ".join(str(one.read_site) for one in found) or type(loaded).__name__,
            allowed="two or more of resid_pre, resid_mid or resid_post",
        )
    return stream


def encoded(model: Model, text: str, begins: bool) -> list[int]:
    """A context's ids, behind what a document begins with where it begins one."""
    own, start = model.encode(text), document_start(model)
    return [start, *own] if begins and start is not None and own[0] != start else own


def features_of(graph: Graph, ids: Sequence[str]) -> Circuit:
    """Nodes as features by dictionary."""
    found: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.id in ids and not node.is_error:
            found.setdefault(node.dictionary, []).append(node.index)
    return {id: tuple(sorted(of)) for id, of in found.items()}


def without(setting: Setting, circuit: Circuit, *, scale: float = 0.0) -> list[Edit]:
    """The edits that take a circuit out, at the positions that a graph uses."""
    pos = setting.keep.nonzero()[:, 0].tolist()
    levels = {level.id: level.dictionary for level in setting.levels}
    return [edits.feature(levels[id], list(of), scale, pos=pos) for id, of in circuit.items() if of]


def others(setting: Setting, circuit: Circuit) -> Circuit:
    """All features but a circuit's, of every dictionary."""
    sizes = {level.id: len(level.dictionary) for level in setting.levels}
    return {id: tuple(i for i in range(n) if i not in circuit.get(id, ())) for id, n in sizes.items()}


def probabilities(model: Model, ids: Sequence[int], stack: Sequence[Edit] = ()) -> Float[Tensor, " vocab"]:
    """Of the next token."""
    return model.run(list(ids), edits=list(stack)).logits[0, -1].float().softmax(-1).cpu()


def cut(setting: Setting, circuit: Circuit, before: Tensor, draws: int, draw: torch.Generator) -> Cut:
    """A circuit, its placed control and random active features, all taken out of one context in one sweep."""
    model, top = setting.model, int(before.argmax())
    active = {level.id: set(level.active(setting.keep)) for level in setting.levels}
    placed = {id: tuple(i for i in range(2 * len(of)) if i not in of)[: len(of)] for id, of in circuit.items()}
    random = [like(circuit, active, draw) for _ in range(draws)]
    cells = [without(setting, one) for one in (circuit, placed, *random)]
    plan = sweep(model, setting.batch, cells, NextToken())
    found = plan.run(progress=False).values[:, 0].float().cpu()
    there = sum(len(active[id].intersection(of)) for id, of in circuit.items())
    return Cut(found[0], there, found[1], found[2:, top])


@dataclass(frozen=True)
class NextToken:
    """A readout: the probability of every token as the next one."""

    sites: tuple[str, ...] = ("logits",)

    def __call__(self, recording: Any) -> Float[Tensor, "row vocab"]:
        found: Tensor = recording.logits_at(-1, None).float().softmax(-1)
        return found


def like(circuit: Circuit, active: Mapping[str, set[int]], draw: torch.Generator) -> Circuit:
    """As many random features of the same dictionaries, active in the context and none of the circuit's."""
    chosen: dict[str, tuple[int, ...]] = {}
    for id, of in circuit.items():
        pool = sorted(active[id].difference(of))
        order = torch.randperm(len(pool), generator=draw)[: len(of)].tolist()
        chosen[id] = tuple(pool[i] for i in order)
    return chosen


def drawn_texts(model: Model, corpus: Source, count: int, seed: int) -> Int[Tensor, "text token"]:
    """So many stretches of a text, each from another place."""
    found: list[list[int]] = []
    for text in texts(corpus):
        ids = model.encode(text[:400])
        if len(ids) >= PART:
            found.append(ids[:PART])
        if len(found) >= 20 * count:
            break
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return torch.tensor([found[i] for i in order])


def on_texts(model: Model, setting: Setting, circuit: Circuit, ids: Tensor) -> tuple[Tensor, Tensor]:
    """KL of the next token and the mean change of its log-probabilities over even and odd texts, without the circuit."""
    levels = {level.id: level.dictionary for level in setting.levels}
    stack = [edits.feature(levels[id], list(of), 0.0, pos=list(range(1, PART))) for id, of in circuit.items()]
    kl, change = [], []
    for some in torch.split(ids, 32):
        one, two = (model.run(some.tolist(), edits=e).logits[:, -1].float().log_softmax(-1).cpu() for e in ([], stack))
        kl.append((one.exp() * (one - two)).sum(1))
        change.append(two - one)
    whole = torch.cat(change)
    return torch.cat(kl), torch.stack([whole[0::2].mean(0), whole[1::2].mean(0)])


def dose(setting: Setting, graph: Graph, count: int) -> tuple[str, Tensor, Tensor]:
    """The target of the strongest edge over coefficients of its source, from 0 to 4."""
    a, b = graph.nodes[int(graph.source[0])], graph.nodes[int(graph.target[0])]
    coefficients = torch.linspace(0, 4, count)
    target = next(level for level in setting.levels if level.id == b.dictionary)
    cells = [without(setting, {a.dictionary: (a.index,)}, scale=float(c)) for c in coefficients]
    read = Values((target.read_site,), setting.last)
    x = sweep(setting.model, setting.batch, cells, read).run(progress=False).values[:, 0, 0]
    values = target.dictionary.encode(x, model=setting.model)[:, b.index]
    return f"{a.id} > {b.id}", coefficients, values.float().cpu()


def likeness(setting: Setting, graph: Graph, pairs: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cosines of what the two ends of an edge write, and of random pairs of active features of consecutive dictionaries."""
    levels = {level.id: level for level in setting.levels}

    def cosines(ends: Iterator[tuple[str, int, str, int]]) -> Tensor:
        written = [(levels[a].dictionary.write[i], levels[b].dictionary.write[j]) for a, i, b, j in ends]
        return torch.stack([cosine_similarity(one, two, dim=0) for one, two in written])

    def random() -> Iterator[tuple[str, int, str, int]]:
        for _ in range(pairs):
            at = int(torch.randint(len(setting.levels) - 1, (1,), generator=draw))
            one, two = setting.levels[at : at + 2]
            of = (one.active(setting.keep), two.active(setting.keep))
            i, j = (own[int(torch.randint(len(own), (1,), generator=draw))] for own in of)
            yield one.id, i, two.id, j

    nodes = [(node.dictionary, node.index) for node in graph.nodes]
    edges = ((*nodes[a], *nodes[b]) for a, b in zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    return cosines(edges), cosines(random())
