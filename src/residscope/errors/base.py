"""What every error and warning of Residscope is: it says what failed, what came, what is allowed and the way out."""

from typing import Any, TypedDict


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
        self, failed: str, *, received: Any = None, allowed: str | None = None, fix: str | None = None
    ) -> None:
        self.failed = failed
        self.received = None if received is None else str(received)
        self.allowed = allowed
        self.fix = fix
        labelled = [("", failed), ("Received: ", self.received), ("Allowed: ", allowed), ("To fix: ", fix)]
        super().__init__(" ".join(f"{label}{text.rstrip('.')}." for label, text in labelled if text is not None))

    def to_dict(self) -> ErrorBody:
        """The one shape every refusal has on the wire."""
        return {
            "type": type(self).__name__,
            "message": str(self),
            "received": self.received,
            "allowed": self.allowed,
            "fix": self.fix,
        }


class ResidscopeWarning(UserWarning):
    """Something in a result that its reader should know."""


class GridEdge(ResidscopeWarning):
    """A probe's C that stands at an end of the grid it was looked for on: the grid chose it as much as the data."""


class Unsealed(ResidscopeWarning):
    """A file of before files were sealed: nothing shows whether it is still as it was saved."""


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
