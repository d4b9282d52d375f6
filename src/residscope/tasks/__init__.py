"""Tasks: prompts with labels, named positions and answers. One task, one file."""

from residscope.declare.tasks import TASKS
from residscope.tasks.gender import gender
from residscope.tasks.ioi import ioi
from residscope.tasks.labelled import from_file, from_text

__all__ = ["TASKS", "from_file", "from_text", "gender", "ioi"]
