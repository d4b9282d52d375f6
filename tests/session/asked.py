"""Methods of every manner, declared for one test: what a runner of jobs has to live with."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from residscope.declare import METHODS, Method
from residscope.results import Result
from residscope.session import Session

WAIT = 30


@contextmanager
def declared(**functions: Callable[..., Any]) -> Iterator[None]:
    """Methods by their ids, for a while. A function may carry a price in tokens as `tokens`."""
    made = {
        id: Method(id, id.capitalize(), function, "methods", None, getattr(function, "tokens", None))
        for id, function in functions.items()
    }
    METHODS.update(made)
    try:
        yield
    finally:
        for id in made:
            METHODS.pop(id, None)


def result(*values: float, name: str = "value") -> Result:
    return Result(torch.tensor(values or (1.0, 2.0)), ("pos",), name=name)


class Gate:
    """A method that stands still where a test wants it to."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def stand(self, model: Any, progress: Any = None, cancel: Any = None) -> Result:
        self.entered.set()
        assert self.leave.wait(WAIT)
        return result()


def start(session: Session, method: str, /, *, name: str = "", **args: Any) -> str:
    return str(session.intent("start", {"method": method, "args": args, "name": name})["job"])


def jobs(session: Session) -> dict[str, dict[str, Any]]:
    return {job["id"]: job for job in session.snapshot()[1]["jobs"]}


def shelf(session: Session) -> list[str]:
    return [item["name"] for item in session.snapshot()[1]["items"]["items"]]
