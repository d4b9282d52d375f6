"""The sweep planner: many cells of edits for little more than the blocks and positions that they change."""

from residscope.engine.planner.screening import screened
from residscope.engine.planner.sweep import Cost, Sweep, sweep

__all__ = ["Cost", "Sweep", "screened", "sweep"]
