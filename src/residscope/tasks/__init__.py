"""Tasks: prompts with labels, named positions and answers. One task, one file."""

from residscope.tasks.gender import gender
from residscope.tasks.ioi import ioi
from residscope.tasks.labelled import from_file

__all__ = ["from_file", "gender", "ioi"]
