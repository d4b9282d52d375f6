"""What is shown of an item: its pictures and its first rows as plain data, and its files."""

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from torch import Tensor

from residscope.engine.generation import Generation
from residscope.errors import BadResult, WrongEnding
from residscope.items import load_item
from residscope.json_values import to_plain
from residscope.shelf.items import Kept
from residscope.shelf.parts import wanting
from residscope.views.view import PlainView, Value

if TYPE_CHECKING:
    import pandas

ROWS = 200
MOST_PARTS, MOST_TOLD = 40, 400  # entries and characters of a part that is told whole
ENDINGS = (".safetensors", ".csv", ".json", ".html", ".png", ".svg", ".pdf")
OF_GRAPHS = (".neuronpedia.json",)


class Cells(TypedDict):
    """The columns of a table and its first rows; `n`: how many rows it has."""

    columns: list[str]
    rows: list[list[Value]]
    n: int


def several_of(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return [*item.values()]
    return [*item] if isinstance(item, tuple | list) else [item]


def views_of(item: Any) -> list[PlainView]:
    """Its pictures, as the page draws them."""
    return [part.view().to_dict() for part in several_of(item) if hasattr(part, "view")]


def table_of(item: Any, rows: int = ROWS) -> Cells:
    """The columns of its table and the first rows; of an item that is no one table, what it is, part by part."""
    frame = _frame(item)
    return {"columns": [str(column) for column in frame.columns], "rows": _cells(frame.head(rows)), "n": len(frame)}


def file_of(kept: Kept, ending: str) -> tuple[str, bytes]:
    """A file's name and bytes; a graph's JSON is its own, another item's is its table. Raises WrongEnding."""
    graph = kept.item.kind == "report:graph"
    endings = ENDINGS + OF_GRAPHS if graph else ENDINGS
    if ending not in endings:
        raise WrongEnding("an item has no such file", received=ending[:20], allowed=", ".join(endings))
    name = f"{kept.name}{ending}".replace("/", "-")
    if ending == ".csv" or (ending == ".json" and not graph):
        return name, text_of(kept.item, ending).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"item{ending}"
        kept.item.save(path)
        return name, path.read_bytes()


def text_of(item: Any, ending: str) -> str:
    """Its table as CSV, or as JSON with what it is."""
    frame = _frame(item)
    if ending == ".csv":
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(frame.columns)
        writer.writerows(frame.itertuples(index=False))
        return out.getvalue()
    first = next(iter(several_of(item)))
    about = {
        "kind": first.kind,
        "name": frame.attrs.get("name", first.kind),
        "unit": frame.attrs.get("unit", ""),
        "note": wanting(first),
        "provenance": to_plain(dict(first.provenance)),
        "columns": [*map(str, frame.columns)],
        "rows": _cells(frame),
    }
    return json.dumps(about, ensure_ascii=False, allow_nan=False)


def _frame(item: Any) -> Any:
    """The first table in it; without one, its parts in words: `attrs` has name and unit where a table has them."""
    parts = several_of(item)
    for part in parts:
        if hasattr(part, "to_dataframe"):
            with suppress(BadResult):  # a report that is no one table
                return part.to_dataframe()
    import pandas

    rows = [row for part in parts for row in _facts(part)]
    return pandas.DataFrame(rows, columns=["part", "value"], dtype=object)


def _facts(item: Any) -> list[tuple[str, Any]]:
    if is_dataclass(item):
        own = [(f.name, getattr(item, f.name)) for f in fields(item) if f.name != "provenance"]
    elif isinstance(item, Generation):
        own = [(f"row {i}", row.text) for i, row in enumerate(item.rows)]
    else:
        own = []  # of a recording its provenance says what it is
    told = [(name, _told(value)) for name, value in [*own, *item.provenance.items()]]
    return [("kind", item.kind), ("bytes", item.nbytes), *told]


def _told(value: Any) -> Any:
    """A part in words or as a number: of tensors their shape, of long lists how long they are."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} [{' '.join(map(str, value.shape))}]"
    if isinstance(value, Mapping | tuple | list):
        if len(value) <= MOST_PARTS:
            with suppress(TypeError, ValueError, RecursionError):
                if len(text := json.dumps(value, ensure_ascii=False)) <= MOST_TOLD:
                    return text
        return f"{len(value)} entries"
    return repr(value)[:MOST_TOLD]


def _cells(frame: "pandas.DataFrame") -> list[list[Value]]:
    """The rows with every digit; JSON has no NaN and no infinity: null stands for them."""
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]


def _cell(value: Any) -> Value:
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
