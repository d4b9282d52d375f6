"""Plain values of a session: a prompt and its tokens, the metric, a run and what makes two runs the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from residscope.declare import EditSpec
from residscope.edits.align import align_tokens


@dataclass(frozen=True)
class Tok:
    id: int
    text: str


@dataclass(frozen=True)
class Chat:
    """A conversation: roles with what each says, and whether the assistant's next turn is opened."""

    turns: tuple[tuple[str, str], ...]
    answer: bool = True

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.turns]


@dataclass(frozen=True)
class Prompt:
    """A text as typed, and the tokens the model reads. names: of positions, where it is one of a task's prompts. by_ids: it was
    set by its token ids, and its text would be read as others. chat: the conversation that the model's template made it of."""

    text: str
    bos: bool | None
    tokens: tuple[Tok, ...]
    begins: bool
    by_ids: bool = False
    names: Mapping[str, int] = field(default_factory=dict, compare=False)
    chat: "Chat | None" = field(default=None, compare=False)

    @property
    def bos_said(self) -> str:
        """What a call in Python says of BOS beside it; nothing beside a conversation, which is ids."""
        return "" if self.bos is None or self.chat is not None else f", bos={self.bos}"

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True)
class Outcome:
    """What came out at the last position of an unedited run; `failed`: why nothing did."""

    last: Tensor | None = field(default=None, repr=False)
    top: tuple[tuple[int, str, float], ...] = ()
    seconds: float = 0.0
    failed: str | None = None


@dataclass(frozen=True)
class Companion:
    """The prompt that the live one is compared with and patched from. pairs: which position of the live one stands for which of
    its own. outcome: None until it has been run."""

    prompt: Prompt
    pairs: tuple[tuple[int, int], ...]
    outcome: Outcome | None = field(default=None, compare=False)

    @classmethod
    def of(cls, prompt: Prompt, live: Prompt) -> "Companion":
        return cls(prompt, tuple(align_tokens(live.ids, prompt.ids).items()))

    def beside(self, live: Prompt) -> "Companion":
        """The same beside another prompt."""
        return replace(self, pairs=Companion.of(self.prompt, live).pairs)


@dataclass(frozen=True)
class Metric:
    """logit(positive) - logit(negative) at the last position, in logits."""

    positive: Tok
    negative: Tok
    chosen: bool

    def of(self, last: Tensor) -> float:
        return float(last[self.positive.id] - last[self.negative.id])


@dataclass(frozen=True)
class Run:
    """One run of the history: what it was a run of, and what came out at the last position.

    of, weights: the name and the hash of the model beside this one, where it is a run of that.
    """

    id: str
    version: int
    prompt: Prompt
    metric: Metric | None
    edits: tuple[EditSpec, ...]
    active: tuple[EditSpec, ...]
    label: str
    newest: str | None
    last: Tensor = field(repr=False, compare=False)
    top: tuple[tuple[int, str, float], ...] = ()
    seconds: float = 0.0
    of: str = ""
    weights: str = ""

    @property
    def key(self) -> "RunKey":
        return run_key(self.prompt, self.active, self.weights)


@dataclass(frozen=True)
class Step:
    """What undo or redo brings back: a stack of edits; where a link was opened, also what stood there with it, as the model of
    such `weights` (its hash) read it."""

    edits: tuple[EditSpec, ...]
    link: bool = False
    prompt: Prompt | None = None
    companion: Companion | None = None
    metric: Metric | None = None
    weights: str = ""


RunKey = tuple[tuple[int, ...], tuple[str, ...], str]


def run_key(prompt: Prompt, active: tuple[EditSpec, ...], weights: str = "") -> RunKey:
    """What makes two runs of one session the same run. weights: the hash of the second model, of its runs."""
    return prompt.ids, tuple(spec.model_dump_json(exclude={"id", "enabled"}) for spec in active), weights
