"""One declaration, every door: `@edit`, `@method`, `@task`, and what wire, page, command line and files make of them."""

from residscope.declare.base import Argument, Declared, reasons, shorten
from residscope.declare.edits import EDITS, EditKind, EditSpec, edit
from residscope.declare.methods import METHODS, Method, method
from residscope.declare.tasks import TASKS, Task, task

__all__ = [
    "EDITS", "METHODS", "TASKS", "Argument", "Declared", "EditKind", "EditSpec", "Method", "Task", "edit", "method", "reasons",
    "shorten", "task",
]  # fmt: skip
