"""`rs.causal_graph`: the graph of one prompt, built exactly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import sweep
from residscope.engine.protocols import LeastEdit
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import BadArguments, Cancelled, GraphError, NoFeatures
from residscope.graph import last
from residscope.graph.exact import Effects, Source, Strongest, effects, effects_at, planned, removed, sources_of
from residscope.graph.graph import Graph, Placed
from residscope.graph.nodes import Level, Node, follows, levels_of, named, when
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress

EDGES = 2_000
TOKENS = 5
WORDS = {"ablate": ("all", "each"), "read": ("last", "all"), "reach": ("next", "later")}


@dataclass(frozen=True, eq=False)
class Setting:
    """One prompt's run with its dictionaries: everything that a graph is built from."""

    model: Model
    record: Recording
    levels: list[Level]
    keep: Bool[Tensor, " pos"]
    background: tuple[LeastEdit, ...]

    @classmethod
    def of(cls, model: Model, prompt: Prompt, dictionaries: Any, background: Sequence[LeastEdit] = ()) -> "Setting":
        """Raises GraphError: several prompts. NoFeatures. SiteError, WrongWidth: dictionaries of another model."""
        given = named(dictionaries)
        batch = model.batch(prompt)
        if len(batch) != 1:
            raise GraphError(
                "a causal graph is of one prompt", received=f"{len(batch)} prompts", fix="draw one for each"
            )
        sites = {model.sites.canonical(s) for _, d in given for s in (d.read_site, d.write_site)}
        stream = {*model.sites.expand("resid_pre"), *model.sites.expand("resid_post")}
        record = model.run(batch, capture=[*sites, *stream], edits=background)
        levels = levels_of(model, record, given)
        keep = (
            torch.stack([kept(record, s)[0] for level in levels for s in {level.read_site, level.write_site}])
            .all(0)
            .cpu()
        )
        if not any(level.active(keep) for level in levels):
            raise NoFeatures(
                "no feature is active at any token of the prompt but its first and its attention sinks",
                received=f"{int(keep.sum())} tokens, {len(levels)} dictionaries",
                fix="give a longer prompt, or dictionaries that fit: rs.sae.fit_check(dictionary, model)",
            )
        return cls(model, record, levels, keep, tuple(background))

    @property
    def batch(self) -> Batch:
        return self.record.batch

    @property
    def last(self) -> int:
        return self.batch.lengths[0] - 1

    def placed(self) -> tuple[Placed, ...]:
        made = []
        for level in self.levels:
            y = self.record[level.write_site][0].reshape(level.error.shape)[self.keep]
            spread = (y - y.mean(0)).square().sum()
            share = float(level.error[self.keep].square().sum() / spread) if spread else float("nan")
            active = len(level.active(self.keep))
            d = level.dictionary
            made.append(Placed(level.id, d.hash, str(level.read_site), str(level.write_site), len(d), active, share))
        return tuple(made)


def check(model: Model, prompt: Any, dictionaries: Any, **given: Any) -> None:
    """Raises BadArguments for a word that is none of the few; GraphError: no dictionaries."""
    for name, allowed in WORDS.items():
        if given.get(name, allowed[0]) not in allowed:
            raise BadArguments(f"{name} is one of a few words", received=repr(given[name]), allowed=", ".join(allowed))
    named(dictionaries)


@method("causal-graph", title="Causal graph", group="graphs", refuse=check)
def causal_graph(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    dictionaries: Annotated[
        Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary, fields.dictionary(several=True)
    ],
    *,
    ablate: Annotated[
        str, fields.choice("all", "each", help="a feature at all positions at once, or at each by itself")
    ] = "all",
    read: Annotated[str, fields.choice("last", "all", help="features at the last position, or at all")] = "last",
    reach: Annotated[
        str, fields.choice("next", "later", help="edges to the next dictionary, or to every later one")
    ] = "next",
    scale: Annotated[float, fields.number(help="what a feature is multiplied by")] = 0.0,
    errors: Annotated[bool, fields.flag(help="what each dictionary leaves out is a node too")] = True,
    edges: Annotated[
        int, fields.count(low=1, high=1_000_000, help="kept between two dictionaries, the strongest")
    ] = EDGES,
    tokens: Annotated[int | Sequence[str | int], fields.count(low=0, high=50, title="next tokens")] = TOKENS,
    background: Annotated[Sequence[LeastEdit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Graph:
    """How far each feature of a run raises each later one, exactly: each is taken out by itself, and the rest read again.

        y' = y + (scale - 1) a_i write_i        at the dictionary's write site: the rest of y, its error included, stays
        weight(i -> j) = a_j - a_j'             as the later dictionary encodes what it then reads

    dictionaries: of which sites, in any order. ablate: at "all" positions at once, or at "each" by itself (then nodes have
    positions). read: at the "last" position or at "all". reach: edges to the "next" dictionary in the forward, or to every
    "later" one. scale: what the feature is multiplied by. errors: what each dictionary leaves out is a node too. edges: so many
    are kept between two dictionaries, the strongest. tokens: of how many likely next tokens, or of which, each node's effect
    is measured. background: edits under which all of it happens. The first token and attention sinks are left out, as everywhere.

    Features that are not active have no effect when they are ablated, and are not tried. One block for each feature, on the
    sweep planner: Udell (2024), "Causal graphs of GPT-2-small's residual stream"; Marks et al. (2024), arXiv:2403.19647.

    Raises:
        GraphError: several prompts, no dictionaries. NoFeatures: none is active. SiteError, WrongWidth: another model's
        dictionaries. Cancelled: with what there is of the graph as its `partial`.
    """
    check(model, prompt, dictionaries, ablate=ablate, read=read, reach=reach)
    setting = Setting.of(model, prompt, dictionaries, background)
    at = setting.last if read == "last" else None
    drawn = Drawn(setting, at, each=ablate == "each", edges=edges)
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    told = {"ablate": ablate, "read": read, "reach": reach, "scale": scale}
    missing = "it was cancelled before every feature had been taken out"
    try:
        for number, level in enumerate(setting.levels):
            targets = targets_of(setting, number, reach)
            sources = drawn.begin(number, sources_of(level, setting.keep, each=ablate == "each", errors=errors))
            if targets and sources:
                for effect in effects_of(
                    setting,
                    level,
                    sources,
                    targets,
                    at=at,
                    scale=scale,
                    memory=memory,
                    progress=progress,
                    cancel=cancel,
                ):
                    drawn.add(number, effect)
        graph = drawn.graph(told)
        missing = "its edges are whole; it was cancelled before the effects on the next token were read"
        return with_logits(setting, graph, tokens, scale=scale, memory=memory, **watch)
    except Cancelled as stop:
        stop.partial = drawn.graph(told, partial=missing)
        raise


def effects_of(
    setting: Setting,
    level: Level,
    sources: Sequence[Source],
    targets: Sequence[tuple[int, Level]],
    *,
    at: int | None,
    scale: float,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Iterator[Effects]:
    """What each source of a level does to the targets: by one block at one position where that is all, else on the planner."""
    read = [target for _, target in targets]
    watch: dict[str, Any] = {
        "progress": progress,
        "cancel": cancel,
        "what": f"Taking features of {level.id} out",
    }
    if at is not None and last.fits(level, read, setting.model, at=at, background=setting.background):
        where: dict[str, Any] = {"keep": setting.keep, "at": at, "scale": scale}
        return effects_at(setting.model, setting.record, level, sources, targets, **where, **watch)
    plan = planned(
        setting.model, setting.batch, level, sources, read, keep=setting.keep, at=at, scale=scale,
        background=setting.background, memory=memory,
    )  # fmt: skip
    return effects(plan, targets, **watch)


def targets_of(setting: Setting, number: int, reach: str) -> list[tuple[int, Level]]:
    """The levels that are read for what a level writes: all that follow, or those that are read first."""
    model, source = setting.model, setting.levels[number]
    after = [(i, level) for i, level in enumerate(setting.levels) if follows(source, level, model)]
    if reach == "later" or not after:
        return after
    first = min(when(level.read_site, model) for _, level in after)
    return [(i, level) for i, level in after if when(level.read_site, model) == first]


class Drawn:
    """The edges found so far, and the graph that they make."""

    def __init__(self, setting: Setting, at: int | None, *, each: bool, edges: int) -> None:
        self.setting, self.at, self.each, self.edges = setting, at, each, edges
        self.sources: dict[int, list[Source]] = {}
        self.found: dict[tuple[int, int], Strongest] = {}

    def begin(self, number: int, sources: list[Source]) -> list[Source]:
        self.sources[number] = sources
        return sources

    def add(self, number: int, effect: Effects) -> None:
        if self.at is None:
            effect = replace(effect, values=effect.values * self.setting.keep[None, :, None].to(effect.values))
        self.found.setdefault((number, effect.target), Strongest(self.edges)).add(effect)

    def graph(self, told: Mapping[str, Any], *, partial: str = "") -> Graph:
        setting, read = self.setting, self.setting.last if self.at is None else self.at
        nodes: dict[str, Node] = {}
        numbers: dict[str, int] = {}

        def number_of(level: Level, index: int, pos: int | None) -> int:
            node = level.node(index, pos, read)
            nodes.setdefault(node.id, node)
            return numbers.setdefault(node.id, len(numbers))

        for number, sources in self.sources.items():
            for source in sources:
                number_of(setting.levels[number], source.index, source.pos)
        edges: list[tuple[float, int, int, int]] = []
        for (number, target), found in self.found.items():
            weights, keys = found.sorted()
            for weight, (row, pos, feature) in zip(weights.tolist(), keys.tolist(), strict=True):
                source, where = self.sources[number][row], read if self.at is not None else pos
                a = number_of(setting.levels[number], source.index, source.pos)
                b = number_of(setting.levels[target], feature, where if self.each else None)
                edges.append((weight, a, b, where))
        edges.sort(key=lambda edge: (-abs(edge[0]), *edge[1:]))
        weight, source_of, target_of, of = zip(*edges, strict=True) if edges else ((), (), (), ())
        model = setting.model
        about = {
            **model.provenance,
            "method": "causal_graph",
            **told,
            "positions": setting.keep.nonzero()[:, 0].tolist(),
            "ids": setting.batch.ids[0].tolist(),
        }
        return Graph(
            prompt=tuple(model.token_texts(setting.batch.ids[0].tolist())),
            nodes=tuple(nodes.values()),
            source=torch.tensor(source_of, dtype=torch.int64), target=torch.tensor(target_of, dtype=torch.int64),
            weight=torch.tensor(weight, dtype=torch.float32), of=torch.tensor(of, dtype=torch.int64),
            placed=setting.placed(), tokens=(), base=torch.zeros(0), logits=torch.zeros(len(nodes), 0),
            partial=partial, provenance=about,
        )  # fmt: skip


def with_logits(
    setting: Setting,
    graph: Graph,
    tokens: int | Sequence[str | int],
    *,
    scale: float = 0.0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Graph:
    """The graph with what each node adds to the log-probability of the next token: of so many likely ones, or of these."""
    model = setting.model
    if isinstance(tokens, int):
        ids = [id for _, id, _ in setting.record.top(tokens)]
    else:
        ids = [model.token_id(token) for token in tokens]
    if not ids or not graph.nodes:
        return graph
    levels = {level.id: level for level in setting.levels}
    cells = [
        removed(levels[node.dictionary], Source(node.index, node.pos), keep=setting.keep, scale=scale)
        for node in graph.nodes
    ]
    plan = sweep(model, setting.batch, cells, LogProbs(tuple(ids)), setting.background, memory=memory)
    values = plan.run(progress, cancel, what="Reading the next token").values[:, 0].float().cpu()
    base = plan.baseline()[0].float().cpu()
    return replace(graph, tokens=tuple(model.token_texts(ids)), base=base, logits=base - values)


@dataclass(frozen=True)
class LogProbs:
    """A readout: the log-probability of each of some tokens as the next one, in nats."""

    tokens: tuple[int, ...]
    sites: ClassVar[tuple[str, ...]] = ("logits",)
    pos: int = -1

    def columns(self, model: Any, batch: Batch) -> None:
        """All: they sum to one."""

    def of(self, logits: Tensor, ids: Any, model: Any, batch: Batch) -> Float[Tensor, "row token"]:
        return logits.float().log_softmax(-1)[:, list(self.tokens)]

    def __call__(self, recording: Recording) -> Float[Tensor, "row token"]:
        return self.of(recording.logits_at(self.pos, None), None, recording.model, recording.batch)
