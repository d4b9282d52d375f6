"""What the session holds, as frozen values: a change is a new state, so a refused intent changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from residscope.declare import EditSpec
from residscope.shelf.items import ItemShelf
from residscope.world.loaded import Loaded
from residscope.world.session_world import SessionWorld, need_model
from residscope.world.values import Metric, Prompt, Run

if TYPE_CHECKING:
    from residscope.directions import Direction
    from residscope.session.jobs import Job
    from residscope.world.fitted import Fitted

MOST_RUNS = 50
MOST_UNDO = 100


@dataclass(frozen=True)
class Saved:
    """A saved prompt; its summary follows once it has been run."""

    text: str
    tokens: int = 0
    top: str | None = None
    p: float | None = None
    tried: bool = False


@dataclass(frozen=True)
class Status:
    phase: str = "empty"
    detail: str = "No model is loaded yet."
    progress: float | None = None
    forward_ms: float | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class State:
    """Everything the page shows. `version` counts what is to be computed; results carry the version they answer."""

    version: int = 0
    model: Loaded | None = None
    models: tuple[Mapping[str, Any], ...] = ()
    status: Status = Status()
    prompt: Prompt | None = None
    metric: Metric | None = None
    edits: tuple[EditSpec, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    inert: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    without: Mapping[str, Tensor] = field(default_factory=dict)
    past: tuple[tuple[EditSpec, ...], ...] = ()
    future: tuple[tuple[EditSpec, ...], ...] = ()
    runs: tuple[Run, ...] = ()
    compared: str | None = None
    baseline: str | None = None
    edited: str | None = None
    count: int = 0
    selection: tuple[int, int] = (0, 0)
    saved: tuple[Saved, ...] = ()
    directions: Mapping[str, "Direction"] = field(default_factory=dict)
    probes: Mapping[str, "Fitted"] = field(default_factory=dict)
    jobs: "tuple[Job, ...]" = ()
    items: Mapping[str, Any] = field(
        default_factory=lambda: {"items": [], "bytes": 0, "budget": 0, "can_restore": False}
    )
    shelf: ItemShelf | None = field(default=None, compare=False, repr=False)
    notices: tuple[str, ...] = ()

    def world(self) -> SessionWorld:
        """What plain values mean here. Raises ModelNotFound."""
        return SessionWorld(
            need_model(self.model),
            self.prompt,
            self.metric,
            self.directions,
            self.probes,
            self.runs,
            self.active,
            self.shelf,
        )

    @property
    def active(self) -> tuple[EditSpec, ...]:
        """The edits a run applies: enabled, and possible on this model and prompt."""
        return tuple(spec for spec in self.edits if spec.enabled and spec.id not in self.problems)

    @property
    def a(self) -> str | None:
        """The run compared with: one chosen, or the prompt's unedited run."""
        return self.compared if self.run(self.compared) else self.baseline

    @property
    def b(self) -> str | None:
        """The run looked at, where it is another than `a`."""
        shown = self.edited or self.baseline
        return shown if shown != self.a else None

    def run(self, id: str | None) -> Run | None:
        return next((run for run in self.runs if run.id == id), None)

    def with_edits(self, edits: tuple[EditSpec, ...]) -> "State":
        """A new stack, the old one on the pile for undo."""
        if edits == self.edits:
            return self
        return replace(self, edits=edits, past=(*self.past, self.edits)[-MOST_UNDO:], future=())
