"""Tasks: prompts with labels, named positions and answers. One task, one file."""

from residscope.declare.plugins import load_plugins
from residscope.declare.tasks import TASKS, Task
from residscope.errors import UnknownTask
from residscope.tasks.gender import gender
from residscope.tasks.ioi import ioi
from residscope.tasks.labelled import from_file, from_text

__all__ = ["TASKS", "find_task", "from_file", "from_text", "gender", "ioi"]


def find_task(name: str) -> Task:
    """A task by its id, a plugin's too. Raises UnknownTask."""
    if name not in TASKS:
        load_plugins()
    if name not in TASKS:
        raise UnknownTask("there is no such task", received=name, allowed=", ".join(TASKS))
    return TASKS[name]
