"""What several commands share: options, the progress bar, tokens on one line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from residscope.errors import ResidscopeError
from residscope.model.catalog import Progress

Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]


def torch_dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ResidscopeError("no such dtype", received=name, allowed=", ".join(known))
    return known[name]


def token_of(model: Any, text: str) -> int:
    """The token as it was typed, else with the space before it put on or off."""
    with contextlib.suppress(ResidscopeError):
        return int(model.token_id(text))
    return int(model.token_id(text[1:] if text.startswith(" ") else f" {text}"))


@contextlib.contextmanager
def bar() -> Iterator[Progress | None]:
    """A progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda stage, done, total: shown.update(task, description=stage, completed=done, total=total or None)


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
