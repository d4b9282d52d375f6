"""What is shown of an item: its pictures and its first rows as plain data, and its files."""

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from residscope.errors import BadResult, WrongEnding
from residscope.items import load_item
from residscope.json_values import to_plain
from residscope.results import Result
from residscope.shelf.items import Kept
from residscope.shelf.parts import wanting

if TYPE_CHECKING:
    import pandas

ROWS = 200
MOST_WORDS, FEW = 200, 8
ENDINGS = (".safetensors", ".csv", ".json", ".html", ".png", ".svg", ".pdf")


def several_of(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return [*item.values()]
    return [*item] if isinstance(item, tuple | list) else [item]


def views_of(item: Any) -> list[dict[str, Any]]:
    """Its pictures, as the page draws them."""
    return [part.view().to_dict() for part in several_of(item) if hasattr(part, "view")]


def table_of(item: Any, rows: int = ROWS) -> dict[str, Any] | None:
    """The columns of its table and the first rows; of a report of several, its parts; None where it has none."""
    for first in several_of(item):
        if (frame := frame_of(first)) is not None:
            columns = [str(column) for column in frame.columns]
            return {"columns": columns, "rows": _cells(frame.head(rows)), "n": len(frame)}
    told = next(
        (parts for first in several_of(item) if hasattr(first, "to_dataframe") and (parts := facts_of(first))), None
    )
    return None if told is None else {"columns": ["part", "what it is"], "rows": told[:rows], "n": len(told)}


def frame_of(item: Any) -> "pandas.DataFrame | None":
    """Its one table; None of what has none, and of a report of several."""
    try:
        return item.to_dataframe() if hasattr(item, "to_dataframe") else None
    except BadResult:
        return None


def facts_of(item: Any) -> list[list[Any]]:
    """Each part of an item and what it is, in a few words."""
    parts = {f.name: getattr(item, f.name) for f in fields(item)} if is_dataclass(item) else {"kind": item.kind}
    return [[name, _in_words(value)] for name, value in parts.items() if name != "provenance"]


def _in_words(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Tensor():
            return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        case Result():
            return f"{value.name or 'result'} over {', '.join(value.dims)}"
        case Mapping():
            return ", ".join(map(str, value))[:MOST_WORDS] or "nothing"
        case tuple() | list():
            return (
                f"{len(value)} of them" if len(value) > FEW else ", ".join(str(_in_words(x)) for x in value) or "none"
            )
        case _:
            return getattr(value, "kind", type(value).__name__)


def file_of(kept: Kept, ending: str) -> tuple[str, bytes]:
    """A file's name and bytes. Raises WrongEnding."""
    if ending not in ENDINGS:
        raise WrongEnding("an item has no such file", received=ending[:20], allowed=", ".join(ENDINGS))
    name = f"{kept.name}{ending}".replace("/", "-")
    if ending in (".csv", ".json"):
        return name, text_of(kept.item, ending).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"item{ending}"
        kept.item.save(path)
        return name, path.read_bytes()


def text_of(item: Any, ending: str) -> str:
    """Its table as CSV; as JSON what it is, whatever it is, with its table or else what its parts are.

    Raises:
        WrongEnding: CSV of what is no one table.
    """
    found = [(part, frame) for part in several_of(item) if (frame := frame_of(part)) is not None]
    first, frame = found[0] if found else (several_of(item)[0], None)
    if ending == ".csv":
        if frame is None:
            raise WrongEnding(
                "this item is no table", received=ending, allowed=".json, .safetensors, .html, .png, .svg, .pdf"
            )
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(frame.columns)
        writer.writerows(frame.itertuples(index=False))
        return out.getvalue()
    about = {
        "name": _word_of(first, "name") or first.kind,
        "unit": _word_of(first, "unit"),
        "kind": first.kind,
        "note": wanting(first),
        "provenance": to_plain(dict(first.provenance)),
        "columns": ["part", "what it is"] if frame is None else [*map(str, frame.columns)],
        "rows": facts_of(first) if frame is None else _cells(frame),
    }
    return json.dumps(about, ensure_ascii=False, allow_nan=False)


def _word_of(item: Any, name: str) -> str:
    """A field that is text; a direction's `unit` is a method."""
    word = getattr(item, name, "")
    return word if isinstance(word, str) else ""


def _cells(frame: "pandas.DataFrame") -> list[list[Any]]:
    """The rows with every digit; JSON has no NaN and no infinity: null stands for them."""
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]


def _cell(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    return plain if plain is None or isinstance(plain, bool | int | float | str) else str(plain)


def read_item(data: bytes, model: Any) -> Any:
    """An item out of a file's bytes. Raises DamagedFile, WrongModel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "the file.safetensors"
        path.write_bytes(data)
        return load_item(path, model)
