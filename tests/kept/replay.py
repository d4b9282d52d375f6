"""What the page said to a session of version 0.1, said to today's: the one place here that knows how a session is spoken to."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from residscope.engine.model import Model
from residscope.session import Session

PATIENCE = 120  # seconds
JOBS = {"load_model", "fit", "fit_probe"}  # whose end a line that follows may count on
ENDS = {"FIRST": 0, "LAST": -1}  # runs that a line does not name
VOLATILE = {"seconds", "forward_ms", "threads", "certificate", "progress", "versions", "device"}


@contextmanager
def opened(model: Model, *, folder: Path | None = None) -> Iterator[Session]:
    """A session that loads this model whatever name it is told, and has it."""
    session = Session(load=lambda name, **_: model, folder=folder)
    try:
        session.load(model)
        assert session.wait(PATIENCE)
        yield session
    finally:
        session.close()


def say(session: Session, lines: Iterable[Mapping[str, Any]], files: Path) -> list[Any]:
    """Each line once the jobs before it are done; what was answered."""
    answers = []
    for line in lines:
        if "import" in line:
            answers.append(session.import_direction((files / line["import"]).read_bytes()))
            continue
        args = dict(line.get("args") or {})
        if args.get("run") in ENDS:
            settle(session)
            args["run"] = state_of(session)["runs"][ENDS[args["run"]]]["id"]
        if line["intent"] in MOVED:
            answers.append(MOVED[line["intent"]](session, args))
            continue
        answers.append(session.intent(line["intent"], args))
        if line["intent"] in JOBS:
            settle(session)
    settle(session)
    return answers


def gather(session: Session, args: dict[str, Any]) -> Any:
    asked = {"direction": args["direction"], "corpus": args["text"], "tokens": args["tokens"]}
    return session.intent("start", {"method": "evidence", "args": asked})


def cancel_last(session: Session, args: dict[str, Any]) -> Any:
    return session.intent("cancel", {"job": session.state.jobs[-1].id})


# intents of 0.1 that are methods now: the page came with its server, so nothing else says them
MOVED = {"gather_evidence": gather, "cancel_evidence": cancel_last}


def settle(session: Session) -> None:
    """Until runs and jobs are done; what is only filled in afterwards (deltas, saved prompts' next tokens) is not waited for."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        state = session.snapshot()[1]
        jobs = [job for job in (state["fit"], state["probing"]) if job and not job["error"]]
        under_way = any(job["phase"] in ("waiting", "running") for job in state["jobs"])
        if not jobs and not under_way and state["status"]["phase"] in ("idle", "empty", "failed"):
            return
        time.sleep(0.005)
    raise AssertionError("the session did not come to rest")


def state_of(session: Session) -> dict[str, Any]:
    """The state as the page is sent it."""
    return json.loads(json.dumps(session.snapshot()[1], allow_nan=False))
