"""A task: prompts with labels, named positions and answers."""

from typing import Literal

from pydantic import Field as Bounds

from residscope.fields.base import Spec


class TaskData(Spec):
    """Prompts of `residscope.tasks`, by name. partner: one of the kinds of partners that the task offers."""

    kind: Literal["task"]
    task: str = Bounds(min_length=1, max_length=100)
    n: int = Bounds(default=120, ge=2, le=2000)
    seed: int = Bounds(default=0, ge=0, lt=1 << 32)
    prefixes: bool = False
    partner: str | None = Bounds(default=None, max_length=40, exclude_if=lambda kind: kind is None)


class FileData(Spec):
    """A table of labelled prompts: the file's name and its text."""

    kind: Literal["file"]
    name: str = Bounds(min_length=1, max_length=200)
    text: str = Bounds(repr=False)
