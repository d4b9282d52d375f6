"""What may be asked of a session without changing it: each query is a shape of arguments and an answer, JSON or tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from residscope.declare import EDITS, TASKS, reasons, shorten
from residscope.declare.plugins import BROKEN
from residscope.errors import MalformedJSON, NotFound
from residscope.fields.base import Spec
from residscope.fields.prompts import LabelledPrompts
from residscope.manifest import all_methods

if TYPE_CHECKING:
    from residscope.session.session import Session

Answer = dict[str, Any] | bytes


class Nothing(Spec):
    pass


class OfRun(Spec):
    run: str


class Coordinates(Spec):
    run: str
    dictionary: str


class Logits(Spec):
    run: str
    positive: int
    negative: int


class Lens(Spec):
    run: str
    layer: int
    pos: int


class Id(Spec):
    id: str


class Several(Spec):
    of: list[str] = Field(min_length=1, max_length=100)


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
    "coef": Query(Coordinates, lambda session, args: session.coef(args.run, dictionary=args.dictionary)),
    "logits": Query(
        Logits, lambda session, args: session.logits(args.run, positive=args.positive, negative=args.negative)
    ),
    "lens": Query(Lens, lambda session, args: session.lens(args.run, layer=args.layer, pos=args.pos)),
    "dictionary": Query(Id, lambda session, args: session.dictionary(args.id)),
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
    "evidence": Query(Gathered, lambda session, args: session.evidence(job=args.job, item=args.item)),
}


def answer(session: "Session", name: str, args: Any) -> Answer:
    """The answer to a query.

    Raises:
        NotFound, MalformedJSON: no such query, or its arguments do not parse. What the query itself refuses.
    """
    query = QUERIES.get(name)
    if query is None:
        raise NotFound("there is no such query", received=shorten(name), allowed=", ".join(QUERIES))
    try:
        checked = query.args.model_validate({} if args is None else args)
    except ValidationError as error:
        takes = ", ".join(query.args.model_fields) or "no arguments"
        raise MalformedJSON(
            f"the arguments of {name} do not parse: {reasons(error)}",
            received=shorten(args),
            allowed=f"an object with {takes}",
        ) from None
    return query.answer(session, checked)
