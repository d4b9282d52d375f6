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


class LensPicture(Spec):
    """The logit lens. show: the likeliest token's probability, or of the followed one its probability or rank; KL; entropy.

    through: a tuned lens of the shelf, by name."""

    show: Literal["top", "chance", "rank", "kl", "entropy"] = "top"
    token: str | None = Field(default=None, min_length=1, max_length=400)
    through: str | None = Field(default=None, min_length=1, max_length=400)


LENS_CELLS = {
    "top": "probability[..., 0]",
    "chance": "chance.values",
    "rank": "rank",
    "kl": "kl",
    "entropy": "entropy",
}


@dataclass(frozen=True)
class Screen:
    """What a page shows of a session: along which direction, in which unit, of which of its two runs, at which places.

    ref: None where nothing is read along. unit: the direction's own unless said. mode: of the run compared with ("base"), of the
    other ("edit"), or the second less the first ("delta"); unless said, of the edited run where there is one. rows: the places as
    the page calls them, from the lowest; all unless said. compared: another run than the prompt's unedited one to compare with.
    lens: shown in place of a direction.
    """

    ref: AnyDirection | None = None
    unit: Unit | None = None
    mode: Mode | None = None
    rows: tuple[str, ...] | None = None
    compared: Run | None = None
    prompts: PagePrompts | None = None
    lens: LensPicture | None = None


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
    if screen.lens is not None:
        return writer.whole([*body, *_lens(writer, screen.lens, shown, screen.compared)])
    return writer.whole([*body, *_cells(writer, screen, shown)])


def _page(writer: SessionWriter, prompts: PagePrompts) -> list[str]:
    drawn = [] if prompts.drawn is None else [f"*{writer.prompts(prompts.drawn)}.texts"]
    lines = [f"    {text}," for text in [*map(repr, prompts.own), *drawn]]
    return ["prompts = [", *lines, "]"]


def _cells(writer: SessionWriter, screen: Screen, runs: list[NamedRun]) -> list[str]:
    if screen.ref is None:
        return []
    return picture_code(writer, screen.ref, unit=screen.unit, rows=screen.rows, runs=runs)


def _lens(writer: SessionWriter, lens: LensPicture, runs: list[NamedRun], compared: Run | None) -> list[str]:
    """`cells`, [row, pos], the embedding first, of a run's logit lens; of two, the first's less the second's."""
    said = "" if lens.token is None else f", token={lens.token!r}"
    lines = [] if lens.through is None else [f"tuned = {writer.item(lens.through)}"]
    said += "" if lens.through is None else ", lens=tuned"
    for run in runs:
        of = compared.of if compared is not None and run.name == "compared" else None
        on = writer.other(of) if of else "model"
        edits = [writer.edit(spec) for spec in run.edits]
        background = f", background=[{', '.join(edits)}]" if run.name == "compared" and edits else ""
        background = ", background=stack" if run.name == "edited" else background
        bos = run.prompt.bos_said
        prompt = "prompt" if run.name != "compared" else writer.tokens(run.prompt)
        prompt = f"{on}.tokens({prompt}{bos})" if bos else prompt
        lines.append(f"{run.name}_lens = rs.logit_lens({on}, {prompt}{said}{background})")
    cells = [f"{run.name}_lens.{LENS_CELLS[lens.show]}" for run in runs]
    return [*lines, f"cells = {' - '.join(cells)}", "print(cells)"]


def method_code(method: Method, plain: Spec, world: SessionWorld) -> str:
    """The lines that give what a method gives, and print it."""
    writer = SessionWriter(world)
    if world.prompt is not None:
        writer.prompt_name = writer.tokens(world.prompt)
    return writer.whole([f"result = {method.code(plain, writer, 'model')}", "print(result)"])
