"""The prompts and stacks of edits that are kept in the user's folder, which other servers may keep theirs in too."""

from dataclasses import replace
from pathlib import Path

from residscope.session.state import Saved, State
from residscope.shelf.stacks import SavedStacks
from residscope.shelf.whole import SavedPrompts


class Keeping:
    """Writes down what a session keeps, and reads what other servers on the folder have kept since."""

    def __init__(self, folder: Path | None) -> None:
        self._prompts = None if folder is None else SavedPrompts(folder)
        self._stacks = None if folder is None else SavedStacks(folder)

    def load(self, state: State) -> State:
        """A state with what is kept, and notices of what could not be read."""
        if self._prompts is None or self._stacks is None:
            return state
        (texts, unread), (stacks, lost) = self._prompts.load(), self._stacks.load()
        return _told(_told(replace(_with(state, texts), stacks=stacks), unread), lost)

    def keep(self, old: State, new: State) -> State:
        """Write down what a change keeps otherwise; the new state, with what others keep. Raises NotWritten."""
        if new.saved != old.saved and self._prompts is not None:
            texts, notice = self._prompts.save(tuple(entry.text for entry in new.saved))
            new = _told(_with(new, texts), notice)
        if new.stacks != old.stacks and self._stacks is not None:
            stacks, notice = self._stacks.save(new.stacks)
            new = _told(replace(new, stacks=stacks), notice)
        return new

    def again(self, state: State) -> State:
        """A state with what others have kept since."""
        others = (self._prompts is not None and self._prompts.stale) or (
            self._stacks is not None and self._stacks.stale
        )
        return self.load(state) if others else state


def _told(state: State, notice: str | None) -> State:
    return state if notice is None else replace(state, notices=(*state.notices, notice))


def _with(state: State, texts: tuple[str, ...]) -> State:
    known = {entry.text: entry for entry in state.saved}
    return replace(state, saved=tuple(known.get(text, Saved(text)) for text in texts))
