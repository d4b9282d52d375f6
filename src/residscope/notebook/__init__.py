"""The notebook: the live page in a cell, over the kernel's own channel, on the session that code reads and changes."""

from residscope.notebook.workbench import Selection, Workbench, workbench

__all__ = ["Selection", "Workbench", "workbench"]
