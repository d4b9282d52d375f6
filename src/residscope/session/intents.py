"""What the page may ask: each intent is a shape of arguments and a pure function from state to state."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, Field

from residscope.errors import MalformedJSON
from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.fields.texts import TextRef
from residscope.session import compute
from residscope.session.chat import SetChat, set_chat
from residscope.session.companion import SetCompanion, compare_companion, set_companion, swap_companion
from residscope.session.editing import Added, AddEdit, RefusedEdits, SetEdits, add_edit, find_run, set_edits
from residscope.session.history import redo, undo
from residscope.session.jobs import CANCELLED, WAITING, find_job
from residscope.session.links import OpenedLink, OpenLink, open_link
from residscope.session.prompts import SetMetric, SetPrompt, SetTokens, set_metric, set_prompt, set_tokens
from residscope.session.second import SetOther, set_other
from residscope.session.shelf_changes import CHANGES
from residscope.session.stacks import (
    DeleteStack,
    ImportStack,
    RenameStack,
    SaveStack,
    delete_stack,
    import_stack,
    rename_stack,
    save_stack,
)
from residscope.session.state import Change, Saved, State
from residscope.session.wire import Code
from residscope.world.loaded import Loaded
from residscope.world.picture import Unit
from residscope.world.python import LensPicture, Mode, PagePrompts, Screen, python_code
from residscope.world.session_world import need_model
from residscope.world.stack import parse_ref

MOST_SAVED = 500
MOST_ROWS = 1000


class LoadModel(Spec):
    name: str = Field(min_length=1, max_length=4096)


class KeepModel(Spec):
    """Instead of one that is being loaded, or could not be."""


class Select(Spec):
    layer: int
    pos: int


class RunId(Spec):
    run: str


class CompareRun(Spec):
    run: str | None = None


class Text(Spec):
    text: str = Field(min_length=1, max_length=MOST_TEXT)


class Python(Spec):
    """What the page shows. direction: what it reads along, in `unit` (the direction's own unless said), of run A (`base`), run B
    (`edit`) or their difference (`delta`); rows: the places, as `coef` names them, all unless said. prompts: the page of
    prompts that is shown in place of the runs. lens: the logit lens, in place of what is read along a direction. raw: what a
    page that says no unit has where no mean is subtracted."""

    direction: Any = None
    raw: bool = False
    unit: Unit | None = None
    mode: Mode | None = None
    rows: list[str] | None = Field(default=None, min_length=1, max_length=MOST_ROWS)
    prompts: PagePrompts | None = None
    lens: LensPicture | None = None


class Forget(Spec):
    id: str


class Nothing(Spec):
    pass


class Start(Spec):
    """A method, by its id, and its arguments as its schema has them. name: of what it makes. keep: false leaves that with its
    job, until `keep_made`."""

    method: str = Field(min_length=1, max_length=200)
    args: Any = Field(default_factory=dict)
    name: str = Field(default="", max_length=100)
    keep: bool = True


class KeepMade(Spec):
    """What a job has made and left with itself, onto the shelf. name: the method's own title unless said."""

    job: str = Field(min_length=1, max_length=64)
    name: str = Field(default="", max_length=100)


class ImportDirection(Spec):
    """data: a safetensors file."""

    data: bytes


class ImportItem(Spec):
    data: bytes
    name: str = ""


class DrawPrompts(Spec):
    """Prompts for a page, by a job; what is drawn stays with it, and is on no shelf."""

    text: TextRef
    n: int = Field(ge=1, le=100)
    seed: int = Field(default=0, ge=0, lt=2**31)
    length: int = Field(default=40, ge=8, le=512)


class ExportFeatures(Spec):
    """Every page of an atlas as one file of HTML."""

    atlas: str = Field(min_length=1, max_length=200)


class CancelJob(Spec):
    job: str = Field(min_length=1, max_length=64)


class Started(TypedDict):
    """A job; what it costs, in seconds, about; null where nobody has said."""

    job: str
    cost: float | None


class DrawingStarted(TypedDict):
    """The job that draws; `ready`: it is done already."""

    job: str
    ready: bool


class ExportStarted(TypedDict):
    """The job that writes the pages; its id is what the file is asked by, with the ending `.zip`."""

    job: str


class SavedName(TypedDict):
    """The reference to a saved direction."""

    kind: Literal["saved"]
    name: str


class Imported(TypedDict):
    """What an item is called on the shelf; of a file of several the first, then all."""

    name: str
    names: list[str]


class KeptNames(TypedDict):
    """What is called how on the shelf."""

    names: list[str]


@dataclass(frozen=True)
class Intent:
    """`answer_type`: the type of its answer, from which the page's is made."""

    args: type[BaseModel]
    apply: Callable[[State, Any], Change[Any]]
    answer_type: Any = NoneType


def load_model(state: State, args: LoadModel) -> Change[None]:
    status = replace(state.status, phase="loading", detail=f"Loading {args.name}", progress=None, error=None)
    return keep_model(state, args) if is_loaded(state, args.name) else (replace(state, status=status), None)


def keep_model(state: State, args: Any) -> Change[None]:
    """The model that is loaded stays: one on its way is not wanted any more, and one that failed is forgotten."""
    if _loaded(state) and state.status.wanted is None:
        return state, None
    return replace(
        state, status=replace(state.status, phase="idle", detail="", progress=None, error=None, wanted=None)
    ), None


def is_loaded(state: State, name: str) -> bool:
    """The model is the one of that name, which stands for the same weights at any time; a folder's may have changed."""
    offered = any(offer["name"] == name for offer in state.models)
    return offered and state.model is not None and state.model.source == name


def select(state: State, args: Select) -> Change[None]:
    n_pos = len(state.prompt.tokens) if state.prompt else 0
    compute.check_cell(_loaded(state).model.n_layers, n_pos, layer=args.layer, pos=args.pos)
    return replace(state, selection=(args.layer, args.pos)), None


def restore_run(state: State, args: RunId) -> Change[None]:
    run = find_run(state, args.run)
    selection = (state.selection[0], min(state.selection[1], len(run.prompt.tokens) - 1))
    restored = replace(state, prompt=run.prompt, metric=run.metric, compared=None, selection=selection)
    return restored.with_edits(run.edits), None


def cancel_run(state: State, args: Nothing) -> Change[None]:
    """Back to the run on screen, with its prompt, edits and answers, instead of the one under way."""
    shown = state.run(state.edited or state.baseline)
    if state.status.phase != "running" or shown is None:
        return state, None
    return restore_run(state, RunId(run=shown.id))


def compare_run(state: State, args: CompareRun) -> Change[None]:
    return replace(state, compared=None if args.run is None else find_run(state, args.run).id, comparing=False), None


def save_prompt(state: State, args: Text) -> Change[None]:
    loaded = _loaded(state)
    if len(state.saved) >= MOST_SAVED:
        raise MalformedJSON("the list of saved prompts is full", allowed=f"up to {MOST_SAVED}", fix="forget one first")
    entry = Saved(args.text, tokens=len(loaded.prompt(args.text).tokens))
    return replace(state, saved=(*(s for s in state.saved if s.text != args.text), entry)), None


def forget_prompt(state: State, args: Text) -> Change[None]:
    return replace(state, saved=tuple(s for s in state.saved if s.text != args.text)), None


def python(state: State, args: Python) -> Change[Code]:
    ref = None if args.direction is None else parse_ref(args.direction)
    unit = args.unit or ("raw" if args.raw else None)
    rows = None if args.rows is None else tuple(args.rows)
    compared = None if state.a == state.baseline else state.run(state.a)
    screen = Screen(ref, unit, args.mode, rows, compared, args.prompts, args.lens)
    return state, {"code": python_code(state.world(), screen)}


def forget_dictionary(state: State, args: Forget) -> Change[None]:
    return replace(state, model=_loaded(state).without(args.id)), None


def cancel_job(state: State, args: CancelJob) -> Change[None]:
    job = find_job(state, args.job)
    if job.ended:
        return replace(state, jobs=tuple(other for other in state.jobs if other is not job)), None
    if job.phase == WAITING:
        return replace(state, jobs=tuple(replace(o, phase=CANCELLED) if o is job else o for o in state.jobs)), None
    return state, None


def _same(state: State, args: Any) -> Change[None]:
    return state, None


INTENTS: dict[str, Intent] = {
    "start": Intent(Start, _same, Started),
    "draw_prompts": Intent(DrawPrompts, _same, DrawingStarted),
    "export_features": Intent(ExportFeatures, _same, ExportStarted),
    "import_direction": Intent(ImportDirection, _same, SavedName),
    "import_item": Intent(ImportItem, _same, Imported),
    "cancel": Intent(CancelJob, cancel_job),
    "keep_made": Intent(KeepMade, _same, KeptNames),
    **{name: Intent(change, _same) for name, change in CHANGES.items()},
    "load_model": Intent(LoadModel, load_model),
    "keep_model": Intent(KeepModel, keep_model),
    "set_prompt": Intent(SetPrompt, set_prompt),
    "set_chat": Intent(SetChat, set_chat),
    "set_companion": Intent(SetCompanion, set_companion),
    "swap_companion": Intent(Nothing, swap_companion),
    "set_tokens": Intent(SetTokens, set_tokens),
    "compare_companion": Intent(Nothing, compare_companion),
    "set_other": Intent(SetOther, set_other),
    "set_metric": Intent(SetMetric, set_metric),
    "set_edits": Intent(SetEdits, set_edits, RefusedEdits | None),
    "add_edit": Intent(AddEdit, add_edit, Added),
    "open_link": Intent(OpenLink, open_link, OpenedLink),
    "undo": Intent(Nothing, undo),
    "redo": Intent(Nothing, redo),
    "select": Intent(Select, select),
    "restore_run": Intent(RunId, restore_run),
    "cancel_run": Intent(Nothing, cancel_run),
    "compare_run": Intent(CompareRun, compare_run),
    "save_prompt": Intent(Text, save_prompt),
    "forget_prompt": Intent(Text, forget_prompt),
    "save_stack": Intent(SaveStack, save_stack),
    "rename_stack": Intent(RenameStack, rename_stack),
    "delete_stack": Intent(DeleteStack, delete_stack),
    "import_stack": Intent(ImportStack, import_stack),
    "forget_dictionary": Intent(Forget, forget_dictionary),
    "python": Intent(Python, python, Code),
}


def _loaded(state: State) -> Loaded:
    return need_model(state.model)
