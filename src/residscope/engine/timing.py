"""Where in a generation an edit acts: at the prompt, at new tokens, or at both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from residscope.engine.protocols import Edit
from residscope.errors import BadEdit, UnknownPosition
from residscope.model.prompts import Batch
from residscope.model.sites import SiteTable

if TYPE_CHECKING:
    from residscope.engine.model import Model

PHASES = ("both", "prompt", "new")


@dataclass(frozen=True)
class Timed:
    """A prepared edit and where in a generation it acts."""

    edit: Edit
    at: str

    def now(self, offset: int, length: int, prompt: int) -> Edit | None:
        """The edit for a forward over positions offset to length, after a prompt of `prompt` tokens; None if it rests."""
        prompting = offset < prompt
        if self.at == ("new" if prompting else "prompt") or (not prompting and holds_prompt(self.edit)):
            return None
        edit, pos = self.edit, self.edit.pos
        if pos is not None:
            here = tuple(p for p in pos if (p < 0 and prompting) or offset <= p < length)
            if not here:
                return None
            edit = edit.kept_to(here)
        return edit


@dataclass(frozen=True)
class Starting:
    """A prompt, or several, to be continued: its tokens, and prepared edits with where each acts."""

    model: "Model"
    batch: Batch
    edits: tuple[Timed, ...]


def holds_prompt(edit: Edit) -> bool:
    """Whether an edit has values for the prompt's positions alone."""
    return edit.needs_unedited or edit.prompt_only


def timed(
    edits: Sequence[Edit], at: str | Sequence[str], table: SiteTable, batch: Batch, new: int
) -> tuple[Timed, ...]:
    """Prepared edits with their times. Raises SiteError, EditError, UnknownPosition for what could not act."""
    times = [at] * len(edits) if isinstance(at, str) else [*at]
    known = {at} <= {*PHASES} if isinstance(at, str) else {*at} <= {*PHASES}
    if len(times) != len(edits) or not known:
        raise BadEdit(
            "at says where edits act", received=f"at={at!r}", allowed=f"{', '.join(PHASES)}, or one such for each edit"
        )
    for edit, time in zip(edits, times, strict=True):
        edit.places(table)
        if time == "new" and holds_prompt(edit):
            raise BadEdit(
                "it holds what another run has at the prompt's positions, so it has nothing for new tokens",
                received=repr(edit),
                allowed='at="prompt" or "both"',
            )
        for length in batch.lengths:
            run = range(0 if time != "new" else length, length if time == "prompt" else length + new - 1)
            edit.check_positions(length, run)
            low = length if time == "new" else -length
            high = length if time == "prompt" or holds_prompt(edit) else length + new
            for p in edit.pos or ():
                if not low <= p < high:
                    raise UnknownPosition(
                        f"the prompt has {length} tokens, and {new} are to come",
                        received=f'pos={p}, at="{time}"',
                        allowed=f"{low} to {high - 1}",
                    )
    return tuple(Timed(edit, time) for edit, time in zip(edits, times, strict=True))
