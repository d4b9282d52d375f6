"""What is shown of an item: its pictures and its first rows as plain data, and its files."""

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from residscope.errors import WrongEnding
from residscope.items import load_item
from residscope.json_values import to_plain
from residscope.shelf.items import Kept
from residscope.shelf.parts import wanting

if TYPE_CHECKING:
    import pandas

ROWS = 200
ENDINGS = (".safetensors", ".csv", ".json", ".html", ".png", ".svg", ".pdf")


def several_of(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return [*item.values()]
    return [*item] if isinstance(item, tuple | list) else [item]


def views_of(item: Any) -> list[dict[str, Any]]:
    """Its pictures, as the page draws them."""
    return [part.view().to_dict() for part in several_of(item) if hasattr(part, "view")]


def table_of(item: Any, rows: int = ROWS) -> dict[str, Any] | None:
    """The columns of its table and the first rows; None where it has none."""
    first = next((part for part in several_of(item) if hasattr(part, "to_dataframe")), None)
    if first is None:
        return None
    frame = first.to_dataframe()
    return {"columns": [str(column) for column in frame.columns], "rows": _cells(frame.head(rows)), "n": len(frame)}


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
    """Its table as CSV, or as JSON with what it is. Raises WrongEnding where it has no table."""
    first = next((part for part in several_of(item) if hasattr(part, "to_dataframe")), None)
    if first is None:
        raise WrongEnding("this item is no table", received=ending, allowed=".safetensors, .html, .png, .svg, .pdf")
    frame = first.to_dataframe()
    if ending == ".csv":
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(frame.columns)
        writer.writerows(frame.itertuples(index=False))
        return out.getvalue()
    about = {
        "name": getattr(first, "name", first.kind),
        "unit": getattr(first, "unit", ""),
        "note": wanting(first),
        "provenance": to_plain(dict(first.provenance)),
        "columns": [*map(str, frame.columns)],
        "rows": _cells(frame),
    }
    return json.dumps(about, ensure_ascii=False, allow_nan=False)


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
