"""Every twin, by what is odd about each: those odd by name or packing alone, and those that compute something else."""

import twins_attention  # noqa: F401
import twins_ends  # noqa: F401
import twins_mlps  # noqa: F401
import twins_named  # noqa: F401
import twins_stream  # noqa: F401
from twins import TWINS

__all__ = ["TWINS"]
