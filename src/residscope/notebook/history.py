"""Every gesture of a session, the page's and code's, as lines of Python that run as pasted."""

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from residscope.manifest import find_method
from residscope.session import Session
from residscope.session.intents import Start
from residscope.session.state import State
from residscope.world.session_world import SessionWorld
from residscope.world.writer import SessionWriter

MOST = 2_000
SILENT = ("python", "draw_prompts", "cancel", "cancel_run", "compare_run", "compare_companion", "keep_model")
COMPANION_OFF = "companion = None"
REFRESHED = "# here the model was changed, and wb.refresh() took it as it was then"


@dataclass(frozen=True)
class _Step:
    """One gesture: what it was, and what stood there after it."""

    name: str
    args: Any
    world: SessionWorld | None
    selection: tuple[int, int] | None
    chosen: bool


class History:
    """Gestures since it began, each written out when it is asked for, against the state that it left."""

    def __init__(self, session: Session) -> None:
        self._lock = threading.Lock()
        self._steps: deque[_Step] = deque(maxlen=MOST)
        self.stop = session.on_gesture(self._add)
        self._add("start", None, session.state)

    def _add(self, name: str, args: Any, state: State) -> None:
        if name in SILENT:
            return
        world = None
        if state.model is not None:
            world = state.world() if isinstance(args, Start) else replace(state.world(), runs=())
        chosen = state.metric is not None and state.metric.chosen
        with self._lock:
            self._steps.append(_Step(name, args, world, state.selection if state.prompt else None, chosen))

    def given(self) -> dict[str, Any]:
        """The edits that the lines name by their place in the workbench."""
        with self._lock:
            steps = [*self._steps]
        return {name: edit for step in steps if step.world for name, edit in step.world.held.items()}

    def lines(self) -> list[str]:
        """Imports, the model, and each gesture in order. A gesture that leaves no mark on runs is a comment."""
        with self._lock:
            steps = [*self._steps]
        book = _Book()
        for step in steps:
            book.write(step)
        return book.whole()


class _Book:
    """The lines so far, and what is known after them."""

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.needed: dict[str, None] = {}
        self.lines: list[str] = []
        self.said: dict[str, str] = {}
        self.model: Any = None

    def write(self, step: _Step) -> None:
        world = step.world
        if world is None:
            return
        if step.name == "refresh":
            self.lines.append(REFRESHED)
        if world.loaded.model is not self.model:
            self._new_model(world)
        writer = SessionWriter(world)
        writer.imports = self.imports
        made = self._made(step, world, writer)
        for line in writer.lines:
            if line not in self.needed:
                self.needed[line] = None
                self.lines.append(line)
        self.lines += made

    def _new_model(self, world: SessionWorld) -> None:
        self.model, loaded = world.loaded.model, world.loaded
        self.said, self.needed = {}, {}
        if loaded.source is None:
            self.lines.append("model = wb.model  # it came as an object, which no name gives")
            return
        options = "".join(f", {name}={value}" for name, value in loaded.options.items() if value is not None)
        self.lines.append(f"model = rs.load({loaded.source!r}{options})")

    def _made(self, step: _Step, world: SessionWorld, writer: SessionWriter) -> list[str]:
        if world.prompt is None:
            return []
        bos = world.prompt.bos_said
        prompt = f"prompt = {writer.tokens(world.prompt)}"
        stack = f"stack = [{', '.join(writer.edit(spec) for spec in world.stack)}]"
        said = [self._if_new("prompt", prompt), self._if_new("stack", stack)]
        if any(said) or self._if_new("bos", bos) or step.name == "refresh":
            said.append(f"run = model.run(prompt, edits=stack{bos})")
        if world.companion is not None:
            said.append(self._if_new("companion", f"companion = {writer.beside(world.companion)}"))
        elif self.said.get("companion", COMPANION_OFF) != COMPANION_OFF:
            said.append(self._if_new("companion", COMPANION_OFF))
        if step.chosen and world.shown is not None:
            said.append(self._if_new("metric", f"metric = {writer.shown_metric(world.shown)}"))
        if step.selection is not None:
            said.append(self._if_new("selection", f"selection = {step.selection}  # layer, position"))
        if isinstance(step.args, Start):
            writer.prompt_name = "prompt"
            method = find_method(step.args.method)
            said.append(f"result = {method.code(method.check(step.args.args), writer, 'model')}")
        lines = [line for line in said if line]
        if lines or step.name in ("start", "refresh"):
            return lines
        told = "" if step.args is None else f" {step.args!r}"
        return [f"# {step.name}{told}".replace("\n", " ")[:200]]

    def _if_new(self, name: str, line: str) -> str:
        if self.said.get(name, "" if name == "bos" else None) == line:
            return ""
        self.said[name] = line
        return line

    def whole(self) -> list[str]:
        head = ["import residscope as rs", "from residscope import directions, edits, metrics", *self.imports]
        text = "\n".join(self.lines)
        standard = [f"import {name}" for name in ("dataclasses", "torch") if f"{name}." in text]
        return [*standard, *head, *self.lines]
