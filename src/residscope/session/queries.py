"""What may be asked of a session without changing it: each query is a shape of arguments and an answer, JSON or tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from residscope.declare import EDITS, TASKS, reasons, shorten
from residscope.declare.plugins import BROKEN
from residscope.errors import MalformedJSON
from residscope.fields.base import Spec
from residscope.fields.prompts import LabelledPrompts
from residscope.manifest import all_methods
from residscope.session.compute import MOST_GRAM, MOST_NAMED

if TYPE_CHECKING:
    from residscope.session.session import Session

Answer = dict[str, Any] | bytes
MOST_OWN = 50


class Nothing(Spec):
    pass


class OfRun(Spec):
    run: str


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


class Lens(Spec):
    run: str
    layer: int
    pos: int


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


class Data(Spec):
    data: LabelledPrompts


class Reading(Spec):
    name: str
    run: str
    pos: int
    named: bool = False


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


@dataclass(frozen=True)
class Query:
    args: type[BaseModel]
    answer: "Callable[[Session, Any], Answer]"


class Method(Spec):
    method: str
    args: Any = Field(default_factory=dict)


class Row(Spec):
    job: str


def manifest() -> dict[str, Any]:
    """What there is to ask for, each with what its form is drawn from: edits, methods, tasks; and the plugins that are broken."""
    methods = all_methods()  # first: plugins bring edits and tasks too
    return {
        "edits": [kind.schema() for kind in EDITS.values()],
        "methods": [method.schema() for method in methods.values()],
        "tasks": [task.schema() for task in sorted(TASKS.values(), key=lambda task: (not task.own, task.title))],
        "broken": dict(BROKEN),
    }


QUERIES: dict[str, Query] = {
    "manifest": Query(Nothing, lambda session, args: manifest()),
    "stream": Query(OfRun, lambda session, args: session.stream(args.run)),
    "coef": Query(
        Coordinates, lambda session, args: session.coef(args.run, dictionary=args.dictionary, indices=args.indices)
    ),
    "strongest": Query(
        Strongest,
        lambda session, args: session.strongest(
            args.run, dictionary=args.dictionary, row=args.row, pos=args.pos, k=args.k
        ),
    ),
    "logits": Query(
        Logits, lambda session, args: session.logits(args.run, positive=args.positive, negative=args.negative)
    ),
    "lens": Query(Lens, lambda session, args: session.lens(args.run, layer=args.layer, pos=args.pos)),
    "dictionary": Query(Components, lambda session, args: session.dictionary(args.id, indices=args.indices)),
    "gram": Query(Several, lambda session, args: session.gram(args.of)),
    "read_direction": Query(DirectionArgs, lambda session, args: session.read(args.direction)),
    "read_data": Query(Data, lambda session, args: session.read_data(args.data)),
    "probe": Query(Name, lambda session, args: session.probe(args.name)),
    "probe_reading": Query(
        Reading,
        lambda session, args: session.probe_reading(args.name, run=args.run, pos=args.pos, named=args.named),
    ),
    "job": Query(Row, lambda session, args: session.job(args.job)),
    "item": Query(Name, lambda session, args: session.item(args.name)),
    "cost": Query(Method, lambda session, args: session.cost(args.method, args.args)),
    "python": Query(Method, lambda session, args: session.method_python(args.method, args.args)),
    "prompts": Query(Prompts, lambda session, args: session.pages.page(args.own, args.drawn)),
    "prompts_coef": Query(
        PageCoordinates,
        lambda session, args: session.page_coef(args.page, args.dictionary, args.row, indices=args.indices),
    ),
    "prompts_logits": Query(
        PageLogits,
        lambda session, args: session.pages.logits(
            args.page, positive=args.positive, negative=args.negative, row=args.row
        ),
    ),
    "evidence": Query(Gathered, lambda session, args: session.evidence(job=args.job, item=args.item)),
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
    return query.answer(session, checked(name, query.args, args))
