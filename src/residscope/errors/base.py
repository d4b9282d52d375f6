"""What every error and warning of Residscope is: it says what failed, what came, what is allowed and the way out."""

import re
from typing import Any, TypedDict

MOST = 2_000  # characters of what came
_CALL = re.compile(r"\w\(|\brs\.")  # a line of Python
_ARGUMENT = re.compile(r"^(\w+)=")
_ARGUMENTS = re.compile(r"\b([a-zA-Z_]\w*)=(?=(\w|[\"'\[{-])?)")


class ErrorBody(TypedDict):
    """The one shape every refusal has on the wire; `message` holds the three that follow."""

    type: str
    message: str
    received: str | None
    allowed: str | None
    fix: str | None


class ResidscopeError(Exception):
    """What failed, with what came, what is allowed, and the way out.

    >>> str(ResidscopeError("no such layer", received=31, allowed="0 to 29", fix="ask for a layer below 30"))
    'no such layer. Received: 31. Allowed: 0 to 29. To fix: ask for a layer below 30.'
    """

    def __init__(
        self,
        failed: str,
        *,
        received: Any = None,
        allowed: str | None = None,
        fix: str | None = None,
        on_page: str | None = None,
    ) -> None:
        """on_page: the way out for whoever has the page before them, where `fix` is a line of Python."""
        self.failed = failed
        self.received = None if received is None else _short(str(received))
        self.allowed = allowed
        self.fix = fix
        self.on_page = on_page
        super().__init__(_sentences(failed, self.received, allowed, fix))

    def to_dict(self) -> ErrorBody:
        """The one shape every refusal has on the wire, in the words of the page: no calls, no keyword arguments."""
        received = None if self.received is None else _ARGUMENT.sub(r"\1 ", self.received, count=1)
        fix = self.on_page
        if fix is None and self.fix is not None and not _CALL.search(self.fix):
            fix = _plain(self.fix)
        return {
            "type": type(self).__name__,
            "message": _sentences(self.failed, received, self.allowed, fix),
            "received": received,
            "allowed": self.allowed,
            "fix": fix,
        }


def _short(text: str) -> str:
    """What came, its beginning where it is long: a refusal is never larger than what it refuses."""
    return text if len(text) <= MOST else f"{text[:MOST]} … ({len(text):,} characters)"


def _plain(text: str) -> str:
    """A way out without the marks of code: `say head=` as `say head`."""
    return _ARGUMENTS.sub(lambda found: found[1] + (" " if found[2] else ""), text).replace("`", "")


def _sentences(failed: str, received: str | None, allowed: str | None, fix: str | None) -> str:
    labelled = [("", failed), ("Received: ", received), ("Allowed: ", allowed), ("To fix: ", fix)]
    return " ".join(f"{label}{text.rstrip('.')}." for label, text in labelled if text is not None)


class ResidscopeWarning(UserWarning):
    """Something in a result that its reader should know."""


class GridEdge(ResidscopeWarning):
    """A probe's C that stands at an end of the grid it was looked for on: the grid chose it as much as the data."""


class PoorFit(ResidscopeWarning):
    """A dictionary whose features describe a run worse than its mean alone does: most likely it belongs to another place."""


class Unsealed(ResidscopeWarning):
    """A file of before files were sealed: nothing shows whether it is still as it was saved."""


class NotCached(ResidscopeWarning):
    """What a second pass would be spared cannot be kept: the disk is full, or may not be written."""


class MissingExtra(ResidscopeError):
    """An optional dependency is not installed."""


class Cancelled(ResidscopeError):
    """Stopped by request; `partial` is what was finished, where the call can keep it, else None."""

    def __init__(self, failed: str, *, partial: Any = None, **said: Any) -> None:
        super().__init__(failed, **said)
        self.partial = partial


class Interrupted(Cancelled, KeyboardInterrupt):
    """Stopped by Ctrl-C; still a KeyboardInterrupt."""


def explain(error: Exception) -> ErrorBody:
    """Any failure in the one shape refusals have."""
    if isinstance(error, ResidscopeError):
        return error.to_dict()
    return ResidscopeError(f"{type(error).__name__}: {error}", fix="please report this").to_dict()
