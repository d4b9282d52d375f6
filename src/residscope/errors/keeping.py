"""What is refused of what is kept and sent: files, the shelf, the library, requests."""

from typing import Any

from residscope.errors.base import ResidscopeError


class ShelfFull(ResidscopeError):
    """No more items fit on the session's shelf."""


class NotWritten(ResidscopeError):
    """An item of the session's shelf whose file could not be written, changed or removed; the message says how it stands."""


class FileError(ResidscopeError):
    """The file cannot be used."""


class FileNotThere(FileError):
    """No file of that name."""


class DamagedFile(FileError):
    """A saved file that is truncated, was changed since, or holds something else."""


class WrongEnding(FileError):
    """A file's name whose ending says another kind of file than is written there."""


class NotPlain(FileError):
    """A value that has no form in JSON, or JSON that is no such form."""


class WireError(ResidscopeError):
    """The request cannot be answered."""


class MalformedJSON(WireError):
    """A body that is not JSON, or not of the shape asked for."""


class MalformedTensors(WireError):
    """A body that is not safetensors, or not of the shape asked for."""


class NotFound(WireError):
    """No such page, run, intent or entry of the library."""


class Busy(WireError):
    """More is asked at once than is answered in time; `seconds` until it is worth coming back."""

    def __init__(self, failed: str, *, seconds: float, **said: Any) -> None:
        super().__init__(failed, **said)
        self.seconds = seconds


class NotAllowed(WireError):
    """No token, or a wrong one."""


class ForeignHost(WireError):
    """A Host or Origin header that is not this server's."""


class OwnersAlone(ResidscopeError):
    """What a server that several people use leaves to whoever started it."""


class BadAddress(ResidscopeError):
    """An address that the page cannot be reached at: no http or https, or none of this machine's."""


class PortInUse(ResidscopeError):
    """Another program listens there."""


class NoPage(ResidscopeError):
    """The page was not built into this installation."""


class StoreError(ResidscopeError):
    """The library cannot do that."""


class NoUser(StoreError):
    """A change by nobody: a name comes first."""


class NotYours(StoreError):
    """A change to what somebody else wrote."""


class NameTaken(StoreError):
    """A second direction of one's own under the same name."""


class BadText(StoreError):
    """A name or text that is empty, too long, or has characters that mislead."""


class EditedSince(StoreError):
    """A change to what is no longer as it was when it was read."""


class CannotUndo(StoreError):
    """Nothing to undo, or what was done has been changed since."""


class TooFast(StoreError):
    """More changes at once than a person makes; `seconds` until the next."""

    def __init__(self, failed: str, *, seconds: float, **said: Any) -> None:
        super().__init__(failed, **said)
        self.seconds = seconds


class DamagedStore(StoreError):
    """A database, a tensor or a backup that is not what was saved; the message names it."""


class StoreTooNew(StoreError):
    """A database written by a newer Residscope."""


class StoreNotEmpty(StoreError):
    """A backup restored over what is there."""


class StoreUnreachable(StoreError):
    """A database that does not answer, or a URL that is none."""
