"""What is shown of an item: its pictures and its first rows as plain data, and its files."""

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residscope.errors import WrongEnding
from residscope.items import load_item
from residscope.session.shelf import Kept

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
    cells = json.loads(frame.head(rows).to_json(orient="values", double_precision=15))
    return {"columns": [str(column) for column in frame.columns], "rows": cells, "n": len(frame)}


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
    rows = json.loads(frame.to_json(orient="values", double_precision=15))
    about = {
        "name": getattr(first, "name", first.kind),
        "unit": getattr(first, "unit", ""),
        "provenance": dict(first.provenance),
    }
    return json.dumps({**about, "columns": [*map(str, frame.columns)], "rows": rows}, ensure_ascii=False)


def read_item(data: bytes, model: Any) -> Any:
    """An item out of a file's bytes. Raises DamagedFile, WrongModel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "the file.safetensors"
        path.write_bytes(data)
        return load_item(path, model)
