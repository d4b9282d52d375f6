"""What each kind of thing can be written as, by the ending of the file's name: one table."""

import os
from pathlib import Path

from residscope.errors import WrongEnding

TENSORS, PAGE = (".safetensors", ""), (".html",)  # no ending at all: safetensors
ENDINGS = {
    "dictionaries": TENSORS, "direction": TENSORS, "edits": TENSORS, "probe": TENSORS, "recording": TENSORS,
    "result": TENSORS + PAGE,
    "view": PAGE,
}  # fmt: skip


def check_ending(path: str | os.PathLike[str], kind: str) -> str:
    """The ending of a file's name, in small letters.

    Raises:
        WrongEnding: a `kind` of thing is not written as that.

    >>> check_ending("effect.HTML", "result")
    '.html'
    """
    ending, allowed = Path(path).suffix.lower(), ENDINGS.get(kind, TENSORS)
    if ending not in allowed:
        raise WrongEnding(
            f"{kind} cannot be written as {ending or 'a file without an ending'}",
            received=os.fspath(path),
            allowed=", ".join(word or "no ending (safetensors)" for word in allowed),
            fix=f"name it {Path(path).stem}{allowed[0]}",
        )
    return ending
