"""What may be asked of a session without changing it: each query is a shape of arguments and an answer, JSON or tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, Field, ValidationError

from residscope.declare import EDITS, TASKS, reasons, shorten
from residscope.declare.edits import EditForm
from residscope.declare.methods import MethodForm
from residscope.declare.plugins import BROKEN
from residscope.declare.tasks import TaskForm
from residscope.errors import MalformedJSON
from residscope.fields.base import Spec
from residscope.fields.prompts import LabelledPrompts
from residscope.manifest import all_methods
from residscope.session import compute, wire
from residscope.session.compute import MOST_GRAM, MOST_NAMED
from residscope.session.links import OpenLink, ReadLink, read_link
from residscope.session.maps import AttentionFile, LayerFile, LensFile, MapFile, RowsLens, Stopped
from residscope.session.maps.lens import MOST
from residscope.session.maps.sums import Sum
from residscope.session.read.continuations import ContinuationsFound
from residscope.session.read.evidence import Evidence
from residscope.session.read.feature_exports import ExportCost
from residscope.session.read.feature_shapes import (
    MOST_ACTIVE,
    MOST_ATLASES,
    MOST_ROWS,
    Atlases,
    EffectsLeft,
    FeatureDetail,
    FeatureEffects,
    FeatureList,
    FeatureOn,
    FeaturesOn,
    Order,
)
from residscope.session.read.graph_shapes import (
    MOST_DRAWN,
    MOST_SET,
    GraphEdgeRun,
    GraphFound,
    GraphLeft,
    GraphNodeDetail,
    GraphProposals,
    GraphShown,
)
from residscope.session.read.probes import ProbeChoices, ProbeDetail, ProbeExample, ProbeReading
from residscope.session.read.prompt_page import PageCoefFile, PageLogitFile, PromptsAnswer
from residscope.session.read.tokens import TokenTableAnswer
from residscope.session.stacks import OfStack, StackEdits, StackJson, edits_of_stack, json_of_stack
from residscope.terms import GROUPS, TermForm, headwords
from residscope.terms import glossary as all_terms
from residscope.world.read import DictionaryDetail, DirectionReading

if TYPE_CHECKING:
    from residscope.session.session import Session

Answer = Mapping[str, Any] | bytes
A = TypeVar("A", bound=Spec)
T = TypeVar("T")
MOST_OWN = 50
MOST_HEADS = 64


class Nothing(Spec):
    pass


class OfRun(Spec):
    run: str


class Stream(OfRun):
    """next: "last" does not wait for the next tokens of other positions, which of a long prompt follow its picture."""

    next: Literal["all", "last"] = "all"


class Coordinates(Spec):
    run: str
    dictionary: str
    indices: list[int] | None = None


class Strongest(Spec):
    run: str
    dictionary: str
    row: int
    pos: int
    k: int = 10


class Logits(Spec):
    run: str
    positive: int
    negative: int


class Map(Logits):
    """pos: where the logits are read; negative from the end."""

    pos: int = -1


class MapLayer(Map):
    """neurons: whether the strongest are wanted too, which is work of its own at each position."""

    layer: int
    neurons: bool = True


class Attention(OfRun):
    """heads: as [layer, head]. over: what several are together. weighted: by the length of what each pair writes."""

    heads: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(min_length=1, max_length=MOST_HEADS)
    over: Literal["mean", "max"] = "mean"
    weighted: bool = False


class LogitSum(OfRun):
    """positive, negative: tokens, by id or as text; negative: none of a single logit. row: 0 the embedding, then what each layer
    leaves; none at the run's end."""

    positive: int | str
    negative: int | str | None = None
    row: int | None = None
    pos: int = -1


class HeadSum(OfRun):
    layer: int
    head: int
    positive: int | str
    negative: int | str | None = None
    pos: int = -1


class ScoreSum(OfRun):
    layer: int
    head: int
    query: int
    key: int


class LensRows(OfRun):
    pos: int = -1


class Lens(Spec):
    run: str
    layer: int
    pos: int


class LensGrid(OfRun):
    """first, count: the positions. token: one to follow, else what the run itself says at each position. through: a tuned lens of
    the shelf, by name."""

    first: int = 0
    count: int = Field(default=MOST, ge=1, le=MOST)
    token: str | None = Field(default=None, min_length=1, max_length=400)
    through: str | None = Field(default=None, min_length=1, max_length=400)


class Components(Spec):
    """indices: of these alone, in their order."""

    id: str
    indices: list[int] | None = Field(default=None, min_length=1, max_length=MOST_NAMED)


class Several(Spec):
    of: list[str] = Field(min_length=1, max_length=MOST_GRAM)


class DirectionArgs(Spec):
    direction: Any


class Name(Spec):
    name: str


class Typed(Spec):
    text: str = Field(min_length=1, max_length=400)


class OfPrompt(Spec):
    """other: a model on this machine, that reads the text too. companion: of the companion's tokens instead."""

    other: str | None = Field(default=None, max_length=4096)
    companion: bool = False


class Data(Spec):
    data: LabelledPrompts


class Reading(Spec):
    name: str
    run: str
    pos: int
    named: bool = False


class PromptOf(Spec):
    """row: the prompt's number in the probe's data."""

    name: str
    row: int


class Gathered(Spec):
    job: str | None = None
    item: str | None = None


class Prompts(Spec):
    """One's own prompts, then those that a job (`draw_prompts`) has drawn."""

    own: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=MOST_OWN)
    drawn: str | None = None


class PageRow(Spec):
    page: str
    row: int


class PageCoordinates(PageRow):
    dictionary: str
    indices: list[int] | None = None


class PageLogits(PageRow):
    positive: int
    negative: int


class OfAtlas(Spec):
    """Features in order; or those that a token, a text or a feature finds, the best first."""

    atlas: str
    order: Order = "highest"
    descending: bool = True
    first: int = Field(default=0, ge=0)
    count: int = Field(default=50, ge=1, le=MOST_ROWS)
    token: str | None = Field(default=None, min_length=1, max_length=400)
    text: str | None = Field(default=None, min_length=1, max_length=4000)
    like: int | None = None


class AtlasName(Spec):
    atlas: str


class OneFeature(Spec):
    atlas: str
    index: int


class Measured(OneFeature):
    """asker: a name of the page's own, of whose questions only the latest is answered."""

    asker: str = Field(default="", max_length=64)


class Asker(Spec):
    asker: str = Field(default="", max_length=64)


class FeatureOfRun(OneFeature):
    run: str


class ActiveOfRun(Spec):
    """pos: negative from the end. k: how many of each atlas."""

    run: str
    atlases: list[str] = Field(min_length=1, max_length=MOST_ATLASES)
    pos: int = -1
    k: int = Field(default=10, ge=1, le=MOST_ACTIVE)


class OfGraph(Spec):
    """A graph of the shelf, with what its thresholds leave of it. nodes: at most so many are drawn."""

    item: str
    least: float | None = Field(default=None, ge=0)
    per_level: int | None = Field(default=None, ge=1)
    top: int | None = Field(default=None, ge=1)
    influence: float | None = Field(default=None, gt=0, le=1)
    path: int | None = Field(default=None, ge=1)
    nodes: int = Field(default=MOST_DRAWN, ge=2, le=MOST_SET)


class OfNode(Spec):
    item: str
    node: str


class SoughtNode(Spec):
    """text: in a node's id, its label or its token."""

    item: str
    text: str = Field(max_length=400)
    count: int = Field(default=20, ge=1, le=200)


class OfEdge(Asker):
    """source, target: nodes, or groups, by their ids in the graph's picture."""

    item: str
    source: str
    target: str


class Alike(Spec):
    item: str
    least: float = Field(default=0.6, gt=0, le=1)


@dataclass(frozen=True)
class Query:
    """`answer_type`: the type of its answer, a typed dict or a `TensorFile`, from which the page's is made."""

    args: type[BaseModel]
    answer_type: Any
    answer: "Callable[[Session, Any], Any]"


def _query(args: type[A], answer_type: type[T], answer: "Callable[[Session, A], T]") -> Query:
    """That the function takes the one and answers with the other is for the type checker to see."""
    return Query(args, answer_type, answer)


class Method(Spec):
    method: str
    args: Any = Field(default_factory=dict)


class Row(Spec):
    job: str


class Manifest(TypedDict):
    edits: list[EditForm]
    methods: list[MethodForm]
    tasks: list[TaskForm]
    broken: Annotated[dict[str, str], "Plugins that could not be imported, and why."]
    words: Annotated[dict[str, str], "The glossary's word for each thing that shows terms, as `method:pca`."]


class Terms(TypedDict):
    """All of the glossary. groups: their titles by id."""

    groups: dict[str, str]
    entries: list[TermForm]


def manifest() -> Manifest:
    """What there is to ask for, each with what its form is drawn from: edits, methods, tasks; and the plugins that are broken."""
    methods = all_methods()  # first: plugins bring edits and tasks too
    return {
        "edits": [kind.schema() for kind in EDITS.values()],
        "methods": [method.schema() for method in methods.values()],
        "tasks": [task.schema() for task in sorted(TASKS.values(), key=lambda task: (not task.own, task.title))],
        "broken": dict(BROKEN),
        "words": headwords(),
    }


def glossary() -> Terms:
    """The field's words, in order."""
    return {"groups": GROUPS, "entries": [entry.to_dict() for entry in all_terms()]}


QUERIES: dict[str, Query] = {
    "manifest": _query(Nothing, Manifest, lambda session, args: manifest()),
    "glossary": _query(Nothing, Terms, lambda session, args: glossary()),
    "stream": _query(Stream, compute.StreamFile, lambda session, args: session.reads.stream(args.run, next=args.next)),
    "coef": _query(
        Coordinates,
        compute.CoefFile,
        lambda session, args: session.reads.coef(args.run, dictionary=args.dictionary, indices=args.indices),
    ),
    "strongest": _query(
        Strongest,
        compute.StrongestCoordinates,
        lambda session, args: session.reads.strongest(
            args.run, dictionary=args.dictionary, row=args.row, pos=args.pos, k=args.k
        ),
    ),
    "logits": _query(
        Logits,
        compute.LogitFile,
        lambda session, args: session.reads.logits(args.run, positive=args.positive, negative=args.negative),
    ),
    "tokens": _query(Typed, wire.Spelling, lambda session, args: session.reads.tokens(args.text)),
    "token_table": _query(
        OfPrompt,
        TokenTableAnswer,
        lambda session, args: session.token_tables.table(other=args.other, companion=args.companion),
    ),
    "lens": _query(
        Lens, wire.LensReading, lambda session, args: session.reads.lens(args.run, layer=args.layer, pos=args.pos)
    ),
    "lens_rows": _query(LensRows, RowsLens, lambda session, args: session.maps.lens(args.run, pos=args.pos)),
    "lens_grid": _query(
        LensGrid,
        LensFile,
        lambda session, args: session.reads.lens_grid(
            args.run, first=args.first, count=args.count, token=args.token, through=args.through
        ),
    ),
    "map": _query(
        Map,
        MapFile,
        lambda session, args: session.maps.map(args.run, positive=args.positive, negative=args.negative, pos=args.pos),
    ),
    "map_stop": _query(Nothing, Stopped, lambda session, args: session.maps.stop()),
    "map_layer": _query(
        MapLayer,
        LayerFile,
        lambda session, args: session.maps.layer(
            args.run,
            layer=args.layer,
            positive=args.positive,
            negative=args.negative,
            pos=args.pos,
            neurons=args.neurons,
        ),
    ),
    "attention": _query(
        Attention,
        AttentionFile,
        lambda session, args: session.maps.attention(
            args.run, [(layer, head) for layer, head in args.heads], over=args.over, weighted=args.weighted
        ),
    ),
    "logit_sum": _query(
        LogitSum,
        Sum,
        lambda session, args: session.maps.logit_sum(
            args.run, (args.positive, args.negative), row=args.row, pos=args.pos
        ),
    ),
    "head_sum": _query(
        HeadSum,
        Sum,
        lambda session, args: session.maps.head_sum(
            args.run, (args.positive, args.negative), args.layer, args.head, pos=args.pos
        ),
    ),
    "score_sum": _query(
        ScoreSum,
        Sum,
        lambda session, args: session.maps.score_sum(args.run, args.layer, args.head, query=args.query, key=args.key),
    ),
    "dictionary": _query(
        Components, DictionaryDetail, lambda session, args: session.reads.dictionary(args.id, indices=args.indices)
    ),
    "gram": _query(Several, compute.Gram, lambda session, args: session.reads.gram(args.of)),
    "read_direction": _query(DirectionArgs, DirectionReading, lambda session, args: session.reads.read(args.direction)),
    "read_data": _query(Data, ProbeChoices, lambda session, args: session.reads.read_data(args.data)),
    "probe": _query(Name, ProbeDetail, lambda session, args: session.reads.probe(args.name)),
    "probe_reading": _query(
        Reading,
        ProbeReading,
        lambda session, args: session.reads.probe_reading(args.name, run=args.run, pos=args.pos, named=args.named),
    ),
    "probe_prompt": _query(
        PromptOf, ProbeExample, lambda session, args: session.reads.probe_prompt(args.name, args.row)
    ),
    "job": _query(Row, wire.JobDetail, lambda session, args: session.reads.job(args.job)),
    "item": _query(Name, wire.ItemDetail, lambda session, args: session.reads.item(args.name)),
    "cost": _query(Method, wire.Cost, lambda session, args: session.reads.cost(args.method, args.args)),
    "python": _query(Method, wire.Code, lambda session, args: session.reads.method_python(args.method, args.args)),
    "prompts": _query(Prompts, PromptsAnswer, lambda session, args: session.pages.page(args.own, args.drawn)),
    "prompts_coef": _query(
        PageCoordinates,
        PageCoefFile,
        lambda session, args: session.reads.page_coef(args.page, args.dictionary, args.row, indices=args.indices),
    ),
    "prompts_logits": _query(
        PageLogits,
        PageLogitFile,
        lambda session, args: session.pages.logits(
            args.page, positive=args.positive, negative=args.negative, row=args.row
        ),
    ),
    "stack": _query(OfStack, StackEdits, lambda session, args: edits_of_stack(session.state, args.name)),
    "stack_json": _query(OfStack, StackJson, lambda session, args: json_of_stack(session.state, args.name)),
    "link": _query(OpenLink, ReadLink, lambda session, args: read_link(session.state, args)),
    "evidence": _query(Gathered, Evidence, lambda session, args: session.reads.evidence(job=args.job, item=args.item)),
    "atlases": _query(Nothing, Atlases, lambda session, args: session.features.atlases()),
    "features": _query(
        OfAtlas,
        FeatureList,
        lambda session, args: session.features.rows(
            args.atlas,
            order=args.order,
            descending=args.descending,
            first=args.first,
            count=args.count,
            token=args.token,
            text=args.text,
            like=args.like,
        ),
    ),
    "feature": _query(OneFeature, FeatureDetail, lambda session, args: session.features.page(args.atlas, args.index)),
    "feature_effects": _query(
        Measured,
        FeatureEffects,
        lambda session, args: session.feature_effects.measure(args.atlas, args.index, asker=args.asker),
    ),
    "feature_effects_left": _query(Asker, EffectsLeft, lambda session, args: session.feature_effects.leave(args.asker)),
    "features_cost": _query(AtlasName, ExportCost, lambda session, args: session.exports.cost(args.atlas)),
    "feature_on": _query(
        FeatureOfRun, FeatureOn, lambda session, args: session.features.on(args.atlas, args.index, run=args.run)
    ),
    "features_on": _query(
        ActiveOfRun,
        FeaturesOn,
        lambda session, args: session.features.strongest(args.run, args.atlases, pos=args.pos, k=args.k),
    ),
    "graph": _query(
        OfGraph,
        GraphShown,
        lambda session, args: session.graphs.shown(
            args.item,
            nodes=args.nodes,
            least=args.least,
            per_level=args.per_level,
            top=args.top,
            influence=args.influence,
            path=args.path,
        ),
    ),
    "graph_node": _query(OfNode, GraphNodeDetail, lambda session, args: session.graphs.node(args.item, args.node)),
    "graph_find": _query(
        SoughtNode, GraphFound, lambda session, args: session.graphs.find(args.item, args.text, count=args.count)
    ),
    "graph_edge": _query(
        OfEdge,
        GraphEdgeRun,
        lambda session, args: session.graph_runs.measure(args.item, args.source, args.target, asker=args.asker),
    ),
    "graph_left": _query(Asker, GraphLeft, lambda session, args: session.graph_runs.leave(args.asker)),
    "graph_proposals": _query(
        Alike, GraphProposals, lambda session, args: session.graphs.proposals(args.item, least=args.least)
    ),
    "continuations": _query(
        Gathered, ContinuationsFound, lambda session, args: session.reads.continuations(job=args.job, item=args.item)
    ),
}


@dataclass(frozen=True)
class Brought:
    """A query or an intent that another room than the session answers, given who asks: the library's."""

    args: type[BaseModel]
    answer: Callable[[Any, Any], Any]


def checked(name: str, shape: type[BaseModel], args: Any) -> Any:
    """Arguments as the shape they should have. Raises MalformedJSON."""
    try:
        return shape.model_validate({} if args is None else args)
    except ValidationError as error:
        takes = ", ".join(shape.model_fields) or "no arguments"
        raise MalformedJSON(
            f"the arguments of {name} do not parse: {reasons(error)}",
            received=shorten(args),
            allowed=f"an object with {takes}",
        ) from None


def answer(session: "Session", name: str, args: Any) -> Answer:
    """The answer to a query of the session's own. Raises MalformedJSON, and what the query itself refuses."""
    query = QUERIES[name]
    found: Answer = query.answer(session, checked(name, query.args, args))
    return found
