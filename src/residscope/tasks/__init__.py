"""Tasks: prompts with labels, named positions and answers. One task, one file."""

from residscope.tasks.gender import gender
from residscope.tasks.ioi import ioi
from residscope.tasks.labelled import from_file, from_text

TASKS = {"ioi": ioi, "gender": gender}  # those drawn from n, a seed and the prefixes asked for

__all__ = ["TASKS", "from_file", "from_text", "gender", "ioi"]
