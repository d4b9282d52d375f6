"""What the page is told: the state as the JSON of docs/wire.md, and small answers. The page's own types are made of these."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from residscope.declare.edits import Slider
from residscope.errors import ErrorBody
from residscope.shelf.items import ItemAbout, ItemInfo
from residscope.shelf.shown import Cells
from residscope.views.schema import More
from residscope.views.view import Plain, PlainView
from residscope.world.dictionaries import Space
from residscope.world.loaded import ModelInfo

Phase = Annotated[str, Plain(Literal["empty", "loading", "running", "idle", "failed"])]
JobPhase = Annotated[str, Plain(Literal["waiting", "running", "done", "failed", "cancelled"])]
Mapped = Annotated[str, Plain(Literal["none", "part", "whole"])]


class Tok(TypedDict):
    """A token; its text is untrusted, and may hold newlines."""

    id: int
    text: str


class TokenP(Tok):
    p: float | None


class Spelling(TypedDict):
    """The tokens that a text is in the middle of others: one where it names one."""

    tokens: list[Tok]


class ModelOffer(TypedDict):
    """A model that may be loaded; `cached`: its weights are on this machine."""

    name: str
    about: str
    cached: bool


class Status(TypedDict):
    phase: Phase
    detail: str
    progress: float | None
    forward_ms: float | None
    error: ErrorBody | None
    wanted: Annotated[str | None, "The model that is being loaded, or could not be."]


class Turn(TypedDict):
    role: str
    content: str


class Chat(TypedDict):
    messages: list[Turn]
    answer: Annotated[bool, "The assistant's turn is open."]


class Prompt(TypedDict):
    """A prompt's text, and the tokens that the model reads."""

    text: str
    bos: bool
    by_ids: Annotated[bool, "It was set by its token ids: its text would be read as others."]
    tokens: list[Tok]
    chat: Annotated["Chat | None", "The conversation that the model's template made it of."]


class Outcome(TypedDict):
    """What comes out at the last position of the companion's unedited run."""

    metric: Annotated[float | None, "The state's."]
    top: Annotated[list[TokenP], "The next token, the best 10."]
    error: Annotated[str | None, "Why it could not be run."]


class Companion(Prompt):
    """The prompt that the live one is compared with and patched from. `outcome`: null until it has been run."""

    outcome: "Outcome | None"
    pairs: Annotated[list[tuple[int, int]], "A position of the live prompt, and the one of this that stands for it."]


class OtherRuns(TypedDict):
    """The second model's runs of the live prompt, by their ids."""

    baseline: str | None
    edited: Annotated[str | None, "With the same edits, where there are any and it takes them."]


class Other(TypedDict):
    """A second model of the same shapes, beside the session's own."""

    name: str
    phase: Annotated[str, Plain(Literal["loading", "ready", "failed"])]
    detail: str
    progress: float | None
    error: ErrorBody | None
    hash: str | None
    runs: OtherRuns


class Metric(TypedDict):
    """The logit of `positive` less that of `negative`."""

    positive: Tok
    negative: Tok
    chosen: Annotated[bool, "False: guessed from the two likeliest next tokens."]


class Cell(TypedDict):
    """Where an edit acts, as far as it is one place."""

    layer: int | None
    pos: int | None


class ShownEdit(TypedDict):
    """An edit: what its kind takes, and how the session shows it."""

    id: str
    enabled: bool
    kind: str
    label: str
    glyph: str
    beside: Annotated[str, "Where it acts, or what it does, beside its label."]
    slider: Slider | None
    at: Cell
    delta: Annotated[
        float | None,
        "The metric with the whole stack less that without this edit; null until it is there: it follows the run.",
    ]
    inert: Annotated[str | None, "Why it provably cannot change the next token."]
    error: Annotated[str | None, "Why this prompt or model lacks it: it is left out of the run."]


class RunMetric(TypedDict):
    """The logit of `positive` less that of `negative` at the last position, in logits."""

    positive: Tok
    negative: Tok
    value: float | None


class Run(TypedDict):
    """One run of the history."""

    id: str
    version: Annotated[int, "Lower than the state's: it answers an earlier question."]
    label: str
    model: Annotated[str | None, "The second model, of its runs; null of the session's own."]
    prompt: str
    tokens: Annotated[list[Tok] | None, "Of the runs on screen; null of the others."]
    edits: int
    metric: Annotated[float | None, "The state's, at its last position."]
    own: Annotated["RunMetric | None", "The metric as it was when it ran."]
    newest: Annotated[str | None, "The last edit of its stack."]
    top: Annotated[list[TokenP], "The next token after the prompt, the best 10."]
    seconds: float


class Present(TypedDict):
    """Somebody who has the page open, in so many windows; `name`: null for those who have not chosen one."""

    name: str | None
    windows: int


class Current(TypedDict):
    """The runs on screen, by their ids."""

    a: Annotated[
        str | None, "The prompt's unedited run, the second model's where there is one, or the one compared with."
    ]
    b: Annotated[str | None, "The edited run, or, where A is another and nothing is edited, the unedited one."]


class Selection(TypedDict):
    """The locked cell; layer -1 is `embed`."""

    layer: int
    pos: int


class SavedPrompt(TypedDict):
    text: str
    tokens: int
    top: Annotated[str | None, "Null until it has been run."]
    p: float | None


class NamedStack(TypedDict):
    """A stack of edits that was saved under a name."""

    name: str
    model: Annotated[str, "The one that it was made for."]
    here: Annotated[bool, "That is the model that is loaded."]
    labels: Annotated[list[str], "What each of its edits was called, in order."]


class SavedDirection(TypedDict):
    """A direction that was imported, or opened from the library."""

    name: str
    site: str
    head: int | None
    space: Space
    width: int
    norm: float | None
    library: Annotated[str | None, "Its id in the library, where it was opened from there."]


class TaskPrompts(TypedDict):
    kind: Literal["task"]
    task: str
    n: int
    seed: int
    prefixes: bool
    partner: NotRequired[str]


class FilePrompts(TypedDict):
    """`text`: in what a page sends, and of an item."""

    kind: Literal["file"]
    name: str
    text: NotRequired[str]


class ItemPrompts(TypedDict):
    kind: Literal["item"]
    name: str


class PartPrompts(TypedDict):
    """Prompts of another probe: those held out from its fit, those that it was fitted to, or all."""

    kind: Literal["probe"]
    probe: str
    part: Literal["held_out", "training", "all"]


ProbeData = TaskPrompts | FilePrompts | ItemPrompts | PartPrompts


class ProbeInfo(TypedDict):
    """A probe of the session."""

    name: Annotated[str, "What edits say: given once, whatever its item is called."]
    item: Annotated[str | None, "Its item of the shelf; null while a job is at work on it."]
    job: str | None
    revision: Annotated[int, "Grows as its map fills."]
    mapped: Annotated[Mapped, 'How far its map is; "none": it came without its prompts.']
    data: Annotated[ProbeData | None, "A file without its text; null where it is not known."]
    site: str
    position: str
    label: str
    classes: list[str]
    accuracy: float | None
    control: float | None
    selectivity: float | None
    interval: Annotated[list[float], Plain(tuple[float, float])]
    C: float
    train: int
    held_out: int


class Job(TypedDict):
    """A method call under way, or that has ended. cost, left, seconds: in seconds."""

    id: str
    method: str
    title: str
    name: str
    phase: JobPhase
    stage: str
    progress: Annotated[float | None, "The share of its stage."]
    left: Annotated[float | None, "Of its stage, about."]
    cost: float | None
    seconds: float | None
    revision: Annotated[int, "Grows as partial items come."]
    items: list[str]
    note: str
    warnings: Annotated[list[str], "What it warned of, such as a C at the end of its grid."]
    error: ErrorBody | None
    args: Annotated[dict[str, Any] | None, "What it was asked for; null where that is long."]


class Shelf(TypedDict):
    items: list[ItemInfo]
    bytes: int
    budget: int
    can_restore: bool


class Links(TypedDict):
    """Links that were opened in this session."""

    opened: Annotated[int, "How many."]
    undo: Annotated[bool, "The latest step is one, which undo takes back whole: prompt, companion, answers and edits."]


class State(TypedDict):
    """Everything the page shows."""

    session: Annotated[
        str, "Which session it is: another after the server was started again, whose runs have the same names."
    ]
    version: Annotated[int, "Counts what is to be computed: a run of a lower one is stale."]
    model: ModelInfo | None
    models: Annotated[list[ModelOffer], "What the picker offers."]
    status: Status
    prompt: Prompt | None
    companion: Companion | None
    other: Other | None
    metric: Metric | None
    edits: list[Annotated[ShownEdit, More()]]
    can_undo: bool
    can_redo: bool
    links: Links
    runs: Annotated[list[Run], "Newest last, at most 50."]
    current: Current
    selection: Selection
    saved: list[SavedPrompt]
    stacks: list[NamedStack]
    directions: list[SavedDirection]
    probes: list[ProbeInfo]
    jobs: Annotated[list[Job], "Those that wait or run, and the latest 40 that ended."]
    items: Shelf
    present: Annotated[list[Present], "Who has the page open."]
    library: Annotated[int | None, "Counts the library's changes; null where there is none."]
    notices: Annotated[list[str], "Things to tell once, such as a damaged file moved aside."]


class LensReading(TypedDict):
    """The logit lens at one cell."""

    top: list[TokenP]


class Cost(TypedDict):
    seconds: Annotated[float | None, "About; null where nobody has said."]


class Code(TypedDict):
    """Lines of Python."""

    code: str


class JobDetail(TypedDict):
    """What a job has made so far; `table`: null before there is anything."""

    job: str
    revision: int
    done: bool
    views: list[PlainView]
    table: Cells | None


class ItemDetail(ItemAbout):
    """An item of the shelf; of one that is no one table, `table` is its parts in words."""

    args: Annotated[dict[str, Any], "What it was asked for, however long."]
    provenance: dict[str, Any]
    code: str
    views: list[PlainView]
    table: Cells
