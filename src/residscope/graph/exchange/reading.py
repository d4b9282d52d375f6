"""Files of graphs written whole, and read with care: what is in one is other people's."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from residscope.drafts import replace_whole
from residscope.errors import DamagedFile, FileNotThere, NotPlain
from residscope.incoming import content, parsed, regular

GRAPH_JSON = "residscope graph"  # the key by which the graph's own JSON is known
MOST_BYTES = 1 << 30
AGAIN = "save it again from where it was made"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON. Raises FileNotThere; DamagedFile: no JSON, none of an object, or beyond all reason large."""
    if not regular(path):
        raise FileNotThere(f"there is no file {path.name}", received=str(path), allowed="a file that exists")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DamagedFile(
            f"{path.name} is larger than any graph", received=f"{size:,} bytes", allowed=f"{MOST_BYTES:,}"
        )
    with refused(path.name):
        told = parsed(content(path), constants=True, own=True)
        if not isinstance(told, dict):
            raise TypeError(f"it holds a {type(told).__name__}, not an object")
    return told


@contextmanager
def refused(name: str) -> Iterator[None]:
    """What does not fit while a file is read is that file's damage. Raises DamagedFile."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotPlain,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DamagedFile(f"{name} holds no graph that is read", received=reason[:300], fix=AGAIN) from error


def number(value: Any, what: str) -> float:
    """A finite number. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is {value!r:.60}, not a number")
    if not math.isfinite(value):
        raise ValueError(f"{what} is not finite")
    return float(value)


def text(value: Any, what: str) -> str:
    """Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r:.60}, not text")
    return value


def write_text(path: Path, told: str) -> None:
    """JSON as UTF-8; halves of characters, which that has not, as JSON escapes them. Raises FileNotThere."""
    replace_whole(path, lambda draft: draft.write_bytes(told.encode("utf-8", "backslashreplace")))
