"""Two prompt sets that belong together: what corresponds in them, and the one metric that scores both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import Readout
from residscope.errors import BadSweep, UnalignedPrompts, UnknownPosition
from residscope.metrics import LogitDiff, Loss
from residscope.model.prompts import Batch, PromptSet


@dataclass(frozen=True)
class Side:
    """One set of a pair: its tokens, with the answers that both sets are scored by, and the set that names its positions."""

    batch: Batch
    names: PromptSet | None

    def at(self, name: str) -> tuple[int, ...]:
        """The token index of a named position in each of these prompts. Raises UnknownPosition."""
        if self.names is None:
            raise UnknownPosition("the prompts name no positions", received=repr(name))
        return self.names.at(name)


@dataclass(frozen=True)
class Pair:
    """Clean and corrupted prompts of equal lengths, and the metric of both. `scored_by`: whose answers or tokens it goes by."""

    clean: Side
    corrupted: Side
    metric: Readout
    scored_by: str | None


def paired(model: Model, clean: Prompt, corrupted: Prompt | None, metric: Readout) -> Pair:
    """Two sets of prompts made ready to be compared: every number of the comparison is one metric's.

    Answers are the clean set's where it has them, else the corrupted set's; the loss is of the clean prompts' next tokens. A
    position's name stands for each set's own token; a set that names none takes its partner's, which it matches token by token.

    Raises:
        BadSweep: there is no corrupted prompt. UnalignedPrompts: the sets differ in number or length. PromptError.
    """
    if corrupted is None:
        corrupted = partners(clean)
    a, b = model.batch(clean), model.batch(corrupted)
    check_aligned(a.lengths, b.lengths)
    answers, side = (a.answers, "clean") if a.answers is not None else (b.answers, "corrupted")
    own_answers = answers is not None and isinstance(metric, LogitDiff) and metric.positive is None
    scored_by = f"the {side} prompts' answers" if own_answers else None
    readout: Any = metric
    if isinstance(metric, Loss) and metric.tokens is None:
        readout, scored_by = metric.on(a), "the clean prompts' tokens"
    return Pair(
        Side(replace(a, answers=answers), _naming(clean, corrupted)),
        Side(replace(b, answers=answers), _naming(corrupted, clean)),
        readout,
        scored_by,
    )


def partners(prompts: Prompt) -> PromptSet:
    """A prompt set's own corrupted partners, which its answers and named positions hold of too. Raises BadSweep."""
    if not isinstance(prompts, PromptSet) or prompts.corrupted is None:
        raise BadSweep("there is no corrupted prompt", received="None", allowed="prompts, or a PromptSet with its own")
    return PromptSet(prompts.corrupted, answers=prompts.answers, positions=prompts.positions)


def check_aligned(clean: Sequence[int], corrupted: Sequence[int]) -> None:
    """Refuse, with UnalignedPrompts, prompts that do not correspond token by token."""
    if tuple(clean) == tuple(corrupted):
        return
    at = next((i for i, (m, n) in enumerate(zip(clean, corrupted, strict=False)) if m != n), None)
    if at is None:
        received = f"{len(clean)} clean and {len(corrupted)} corrupted prompts"
    else:
        received = f"prompt {at}: {clean[at]} and {corrupted[at]} tokens"
    raise UnalignedPrompts(
        "clean and corrupted prompts must correspond token by token",
        received=received,
        allowed="as many prompts, of equal lengths",
        fix="choose words of as many tokens, or give edits.patch(..., align=...) cells to rs.sweep",
    )


def _naming(own: Prompt, other: Prompt) -> PromptSet | None:
    """The set whose named positions hold of these prompts."""
    return next((one for one in (own, other) if isinstance(one, PromptSet) and one.positions), None)
