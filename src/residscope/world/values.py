"""Plain values of a session: a prompt and its tokens, the metric, a run and what makes two runs the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from residscope.declare import EditSpec
from residscope.edits.align import align_tokens


@dataclass(frozen=True)
class Tok:
    id: int
    text: str


@dataclass(frozen=True)
class Prompt:
    """A text as typed, and the tokens the model reads. names: of positions, where it is one of a task's prompts. by_ids: it was
    set by its token ids, and its text would be read as others."""

    text: str
    bos: bool | None
    tokens: tuple[Tok, ...]
    begins: bool
    by_ids: bool = False
    names: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True)
class Companion:
    """The prompt that the live one is compared with and patched from. pairs: which position of the live one stands for which of
    its own."""

    prompt: Prompt
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, prompt: Prompt, live: Prompt) -> "Companion":
        return cls(prompt, tuple(align_tokens(live.ids, prompt.ids).items()))


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
    """One run of the history: what it was a run of, and what came out at the last position."""

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

    @property
    def key(self) -> "RunKey":
        return run_key(self.prompt, self.active)


RunKey = tuple[tuple[int, ...], tuple[str, ...]]


def run_key(prompt: Prompt, active: tuple[EditSpec, ...]) -> RunKey:
    """What makes two runs of one model the same run."""
    return prompt.ids, tuple(spec.model_dump_json(exclude={"id", "enabled"}) for spec in active)
