"""What each kind of thing can be written as, by the ending of the file's name: one table."""

import os
from pathlib import Path

from residscope.errors import WrongEnding

TENSORS, PAGE, PICTURES = (".safetensors", ""), (".html",), (".png", ".svg", ".pdf")  # no ending at all: safetensors
ITEM = TENSORS + PAGE + PICTURES
ENDINGS = {
    "dictionaries": TENSORS, "direction": TENSORS, "edits": TENSORS, "recording": TENSORS,
    "item": ITEM, "probe": ITEM, "report": ITEM, "result": ITEM,
    "graph": (*ITEM, ".json"),
    "view": PAGE, "figure": PICTURES, "picture": PAGE + PICTURES,
}  # fmt: skip


def check_ending(path: str | os.PathLike[str], kind: str, *, called: str | None = None) -> str:
    """The ending of a file's name, in small letters. called: what a refusal says cannot be written so; the kind unless said.

    Raises:
        WrongEnding: a `kind` of thing is not written as that.

    >>> check_ending("effect.HTML", "result")
    '.html'
    """
    ending, allowed = Path(path).suffix.lower(), ENDINGS.get(kind, TENSORS)
    if ending not in allowed:
        raise WrongEnding(
            f"{called or kind} cannot be written as {ending or 'a file without an ending'}",
            received=os.fspath(path),
            allowed=", ".join(word or "no ending (safetensors)" for word in allowed),
            fix=f"name it {Path(path).stem}{allowed[0]}",
        )
    return ending
