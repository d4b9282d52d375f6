"""What a session holds of a second model, beside its own."""

from dataclasses import dataclass

from residscope.errors import ErrorBody
from residscope.world.loaded import Loaded

NONE, LOADING, READY, FAILED = "none", "loading", "ready", "failed"


@dataclass(frozen=True)
class Second:
    """The second model, or how far it is from being there. baseline, edited: its runs on the live prompt, by id."""

    name: str = ""
    phase: str = NONE
    detail: str = ""
    progress: float | None = None
    error: ErrorBody | None = None
    loaded: Loaded | None = None
    baseline: str | None = None
    edited: str | None = None


NO_SECOND = Second()
