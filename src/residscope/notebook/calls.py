"""Methods called by name in a notebook: arguments as Python has them, a job as the page has it, the item as its answer."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import residscope.errors
from residscope.directions import Direction
from residscope.errors import Cancelled, NotFound, ResidscopeError
from residscope.manifest import find_method
from residscope.metrics import LogitDiff, LogProb, Loss
from residscope.session import Session
from residscope.session.from_code import hold_direction
from residscope.session.jobs import Job, find_job

LIVE: dict[str, Any] = {"prompts": {"kind": "live"}, "metric": {"kind": "live"}, "edits": "live"}
"""What an argument of these kinds is where nothing is said: the page's own."""


def start(session: Session, method: str, name: str, given: Mapping[str, Any]) -> str:
    """A job. Raises UnknownMethod, BadArguments, and what a first look at the arguments refuses."""
    found = find_method(method)
    plain: dict[str, Any] = {}
    for argument in found.arguments:
        said = given.get(argument.name, given.get(argument.wire))
        if said is not None:
            plain[argument.wire] = _plain(said, argument.field.kind, session)
        elif argument.default is argument.required and argument.field.kind in LIVE:
            plain[argument.wire] = LIVE[argument.field.kind]
    known = {name for argument in found.arguments for name in (argument.name, argument.wire)}
    plain |= {key: value for key, value in given.items() if key not in known}  # refused, by its name
    return str(session.intent("start", {"method": method, "args": plain, "name": name})["job"])


def follow(session: Session, id: str, *, progress: bool = True) -> Any:
    """The item that a job makes, several by name where it makes several. Ctrl-C stops the job.

    Raises:
        Cancelled: somebody stopped it. ResidscopeError: why it failed.
    """
    changed = threading.Event()
    stop = session.subscribe(lambda seq, patch: changed.set() if "jobs" in patch else None)[2]
    bar = _bar() if progress else None
    try:
        while not (job := _find(session, id)).ended:
            if bar is not None:
                bar.desc = f"{job.title}: {job.stage or 'waiting'}"
                bar.update((job.progress or 0.0) - bar.n)
            changed.wait(0.5)
            changed.clear()
    except KeyboardInterrupt:
        session.intent("cancel", {"job": id})
        raise
    finally:
        stop()
        if bar is not None:
            bar.close()
    if job.phase == "cancelled":
        raise Cancelled("the job was cancelled", partial=_items(session, job))
    if job.error is not None:
        kind = getattr(residscope.errors, job.error["type"], ResidscopeError)
        error = ResidscopeError.__new__(kind)
        ResidscopeError.__init__(error, job.error["message"].rstrip("."))
        raise error
    return _items(session, job)


def _find(session: Session, id: str) -> Job:
    return find_job(session.state, id)


def _items(session: Session, job: Job) -> Any:
    made = {name: session.items[name] for name in job.items if name in session.items}
    if not made:
        return None
    return made if len(made) > 1 else next(iter(made.values()))


def _plain(value: Any, kind: str, session: Session) -> Any:
    """An argument as the wire has it. Raises NotFound: an object that no words of the wire say."""
    match value:
        case LogitDiff(positive=(positive,), negative=(negative,), pos=-1):
            return {"kind": "logit_diff", "positive": _token(positive, session), "negative": _token(negative, session)}
        case LogProb(token=token, pos=-1):
            return {"kind": "log_prob", "token": _token(token, session)}
        case LogitDiff(positive=None, negative=None, pos=-1):
            return {"kind": "answers"}
        case Loss(tokens=None):
            return {"kind": "loss"}
        case Direction():
            return {"kind": "saved", "name": session.change(lambda state: hold_direction(state, value), "direction")}
        case str() if kind == "prompts":
            return {"kind": "typed", "texts": [value]}
        case list() | tuple() if kind == "prompts" and all(isinstance(text, str) for text in value):
            return {"kind": "typed", "texts": [*value]}
        case Mapping() | str() | int() | float() | bool():
            return value
        case Sequence():
            return [_plain(one, kind, session) for one in value]
        case _:
            for name, item in session.items.items():
                if item is value:
                    return name if kind in ("dictionary", "item", "probe") else {"kind": "item", "name": name}
            raise NotFound(
                "a job takes what the page can say", received=type(value).__name__,
                allowed="texts, numbers, directions, metrics, and items of wb.items", fix='wb.items["mine"] = ... first',
            )  # fmt: skip


def _token(token: str | int, session: Session) -> str:
    return token if isinstance(token, str) else session.model.token_texts([token])[0]


def _bar() -> Any:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(total=1.0, bar_format="{desc} {percentage:3.0f}% |{bar}|", leave=False)
