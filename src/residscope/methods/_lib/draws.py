"""One seed's continuations, without edits and with them, and where they part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from residscope.reports import Record


@dataclass(frozen=True, eq=False)
class Continuation(Record):
    """What one model went on with. text: where the prompt's ends; tokens: each by itself, as `model.token_texts` names it.

    log_probs: in nats, of the model that chose them. other: the other model's, given the same tokens before; NaN where it has
    not read them, and without edits. stopped: by a stop, not for its length.
    """

    kind: ClassVar[str] = "continuation"
    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    text: str = ""
    log_probs: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    stopped: bool = False


@dataclass(frozen=True, eq=False)
class Draw(Record):
    """The continuations of one seed; edited: None where there are no edits."""

    kind: ClassVar[str] = "draw"
    seed: int
    baseline: Continuation
    edited: Continuation | None = None

    @property
    def same(self) -> int | None:
        """How many tokens from the start are the same in both; None without edits."""
        return None if self.edited is None else shared(self.baseline.ids, self.edited.ids)

    @property
    def said(self) -> str:
        """Where the two part, in words."""
        if self.edited is None:
            return "No edits: the model as it is."
        same, longest = self.same, max(len(self.baseline.ids), len(self.edited.ids))
        if same == longest:
            return f"The same tokens, {longest} of {longest}."
        return f"The same until token {same}." if same else "They differ from the first token on."

    def differences(self) -> dict[str, list[float]]:
        """log p with the edits less log p without, in nats, of every token of either run."""
        if self.edited is None:
            return {}
        return {
            "baseline": [a - b for a, b in zip(self.baseline.other, self.baseline.log_probs, strict=True)],
            "edited": [a - b for a, b in zip(self.edited.log_probs, self.edited.other, strict=True)],
        }


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many entries from the start are the same in both."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
