"""Tasks: prompts with labels, named positions and answers. One task, one file."""

from residscope.declare.plugins import load_plugins
from residscope.declare.tasks import TASKS, Task
from residscope.errors import UnknownTask
from residscope.tasks.colours import colours
from residscope.tasks.docstring import docstring
from residscope.tasks.factual import factual
from residscope.tasks.gender import gender
from residscope.tasks.greater_than import greater_than
from residscope.tasks.in_context import in_context
from residscope.tasks.induction import induction
from residscope.tasks.ioi import ioi
from residscope.tasks.labelled import from_file, from_text
from residscope.tasks.skip_trigrams import skip_trigrams
from residscope.tasks.translation import translation

__all__ = [
    "TASKS", "colours", "docstring", "factual", "find_task", "from_file", "from_text", "gender", "greater_than", "in_context",
    "induction", "ioi", "skip_trigrams", "translation",
]  # fmt: skip


def find_task(name: str) -> Task:
    """A task by its id, a plugin's too. Raises UnknownTask."""
    if name not in TASKS:
        load_plugins()
    if name not in TASKS:
        raise UnknownTask("there is no such task", received=name, allowed=", ".join(TASKS))
    return TASKS[name]
