"""What is on screen as lines of Python that run as pasted and give its numbers."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from residscope.declare import Method
from residscope.fields.base import Spec
from residscope.fields.directions import AnyDirection
from residscope.fields.prompts import DrawnPrompts
from residscope.world.picture import NamedRun, Unit, picture_code
from residscope.world.session_world import SessionWorld
from residscope.world.values import Run, run_key
from residscope.world.writer import SessionWriter

Mode = Literal["base", "edit", "delta"]
MOST_OWN = 50


class PagePrompts(Spec):
    """A page of prompts: one's own texts, then those drawn."""

    own: list[str] = Field(default=[], max_length=MOST_OWN)
    drawn: DrawnPrompts | None = None


@dataclass(frozen=True)
class Screen:
    """What a page shows of a session: along which direction, in which unit, of which of its two runs, at which places.

    ref: None where nothing is read along. unit: the direction's own unless said. mode: of the run compared with ("base"), of the
    other ("edit"), or the second less the first ("delta"); unless said, of the edited run where there is one. rows: the places as
    the page calls them, from the lowest; all unless said. compared: another run than the prompt's unedited one to compare with.
    """

    ref: AnyDirection | None = None
    unit: Unit | None = None
    mode: Mode | None = None
    rows: tuple[str, ...] | None = None
    compared: Run | None = None
    prompts: PagePrompts | None = None


NOTHING = Screen()


def python_code(world: SessionWorld, screen: Screen = NOTHING) -> str:
    """The model, the prompt, the runs, the metric and, where something is read along a direction, the cells.

    Raises NotFound, DirectionError, UnknownSite, and what its direction refuses.
    """
    writer = SessionWriter(world)
    if screen.prompts is not None:
        return writer.whole([*_page(writer, screen.prompts), *_cells(writer, screen, [])])
    if world.prompt is None:
        return writer.whole([])
    bos = world.prompt.bos_said
    body = [f"prompt = {writer.tokens(world.prompt)}", f"baseline = model.run(prompt{bos})"]
    first = NamedRun("baseline", world.prompt, (), f"model.run(prompt, places{bos})")
    second: NamedRun | None = None
    if world.stack:
        stack = [f"    {writer.edit(spec)}," for spec in world.stack]
        body += ["stack = [", *stack, "]", f"edited = model.run(prompt, edits=stack{bos})"]
        second = NamedRun("edited", world.prompt, world.stack, f"model.run(prompt, places, edits=stack{bos})")
    if screen.compared is not None:
        prompt, active = screen.compared.prompt, screen.compared.active
        on = writer.other(screen.compared.of) if screen.compared.of else "model"
        body.append(f"compared = {writer.run_of(prompt, active, on=on)}")
        again = writer.run_of(prompt, active, "places", on=on)
        first, second = NamedRun("compared", prompt, active, again), second or first
    runs = [run.name for run in (first, second) if run is not None]
    if world.companion is not None and (screen.compared is None or screen.compared.key != run_key(world.companion, ())):
        body.append(f"companion = {writer.run_of(world.companion, ())}")
        runs.append("companion")
    body.append(f"print({', '.join(f'{run}.top(5)' for run in runs)}, sep='\\n')")
    if world.shown is not None:
        body += [
            f"metric = {writer.shown_metric(world.shown)}",
            f"print({', '.join(f'metric({run}).item()' for run in runs)})",
        ]
    shown = [first] if second is None or screen.mode == "base" else [second]
    shown += [first] if second is not None and screen.mode == "delta" else []
    return writer.whole([*body, *_cells(writer, screen, shown)])


def _page(writer: SessionWriter, prompts: PagePrompts) -> list[str]:
    drawn = [] if prompts.drawn is None else [f"*{writer.prompts(prompts.drawn)}.texts"]
    lines = [f"    {text}," for text in [*map(repr, prompts.own), *drawn]]
    return ["prompts = [", *lines, "]"]


def _cells(writer: SessionWriter, screen: Screen, runs: list[NamedRun]) -> list[str]:
    if screen.ref is None:
        return []
    return picture_code(writer, screen.ref, unit=screen.unit, rows=screen.rows, runs=runs)


def method_code(method: Method, plain: Spec, world: SessionWorld) -> str:
    """The lines that give what a method gives, and print it."""
    writer = SessionWriter(world)
    if world.prompt is not None:
        writer.prompt_name = writer.tokens(world.prompt)
    return writer.whole([f"result = {method.code(plain, writer, 'model')}", "print(result)"])
