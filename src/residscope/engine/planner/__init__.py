"""The sweep planner: many cells of edits for little more than the blocks and positions that they change."""

from residscope.engine.planner.outcomes import Answers, Cost, Gradients
from residscope.engine.planner.screening import screened
from residscope.engine.planner.sweep import Sweep, sweep
from residscope.engine.planner.values import ValuesAt

__all__ = ["Answers", "Cost", "Gradients", "Sweep", "ValuesAt", "screened", "sweep"]
