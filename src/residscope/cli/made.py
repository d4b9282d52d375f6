"""What a method made, in files and in the terminal."""

import math
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from torch import Tensor

from residscope.drafts import replace_whole
from residscope.errors import BadResult, NotWritten, WrongEnding
from residscope.shown_tokens import as_label

if TYPE_CHECKING:
    from residscope.cli.outputs import Outputs
    from residscope.directions import Dictionary

ROWS, COLUMNS = 12, 8
SHOWN, POLES = 8, 6


def parts_of(made: Any) -> dict[str, Any]:
    """The items of what a method made, by what tells them apart."""
    if isinstance(made, Mapping):
        return {str(name): item for name, item in made.items()}
    if isinstance(made, tuple | list):
        return {str(index): item for index, item in enumerate(made)}
    return {"": made}


def write(made: Any, outputs: "Outputs", model: Any) -> None:
    """Write what was asked for. Raises WrongEnding where an item is no table; what it does itself."""
    several = parts_of(made)
    for path in (outputs.save, outputs.html):
        for place, item in places(path, several):
            save_or_keep(item, place, model)
            typer.echo(f"{place}: {place.stat().st_size:,} bytes", err=outputs.json == "-" or outputs.csv == "-")
    if outputs.csv is not None:
        for place, item in places(outputs.csv, several):
            put(csv_of(item), place)
    if outputs.json is not None:
        import json

        documents = [json_of(item) | ({"part": part} if part else {}) for part, item in several.items()]
        put(
            json.dumps(documents[0] if "" in several else documents, ensure_ascii=False, allow_nan=False) + "\n",
            Path(outputs.json),
        )


def places(path: str | None, several: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """A file for each item: of several, `x.csv` is `x-PART.csv`."""
    if path is None:
        return
    whole = Path(path).expanduser()
    for part, item in several.items():
        name = "".join(sign if sign.isalnum() or sign in "._-+" else "-" for sign in part)
        yield (whole.with_name(f"{whole.stem}-{name}{whole.suffix}") if part and path != "-" else whole), item


def put(text: str, path: Path) -> None:
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    replace_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))
    typer.echo(f"{path}: {path.stat().st_size:,} bytes", err=True)


def save_or_keep(item: Any, path: Path, model: Any) -> None:
    """`save`, and where the disk does not take it, elsewhere: what took an hour to make is not lost to a full disk.

    Raises:
        NotWritten: it is elsewhere, or there is no room for it anywhere; the message says which.
    """
    try:
        return save(item, path, model)
    except OSError as error:
        why = error.strerror or str(error)
    for folder in (Path.home(), Path(tempfile.gettempdir())):
        other = folder / f"{path.stem}-{secrets.token_hex(3)}{path.suffix}"
        try:
            save(item, other, model)
        except OSError:
            continue
        raise NotWritten(f"{path} could not be written ({why}): what was made is in {other}", fix=f"mv {other} {path}")
    raise NotWritten(f"{path} could not be written ({why}), nor could any other place", fix="free the disk")


def save(item: Any, path: Path, model: Any) -> None:
    """The item's own file; a dictionary's knows its model again."""
    from residscope import directions

    if isinstance(item, directions.Dictionary) and path.suffix in (".safetensors", ""):
        directions.save(path, [item], model)
    else:
        item.save(path)


def frame_of(item: Any) -> Any:
    """Its table; None where it has none."""
    try:
        return item.to_dataframe() if hasattr(item, "to_dataframe") else None
    except BadResult:
        return None


def csv_of(item: Any) -> str:
    """Its table. Raises WrongEnding."""
    frame = frame_of(item)
    if frame is None:
        raise WrongEnding(
            "this item is no one table", received=f"--csv, {item!r}"[:200], allowed="--json, --html, --save"
        )
    return str(frame.to_csv(index=False))


def json_of(item: Any) -> dict[str, Any]:
    """What it is, and its table as columns and rows; without one, its fields. No number is null."""
    frame, kind = frame_of(item), item.kind.partition(":")[2] or item.kind
    name, unit = (getattr(item, part, "") for part in ("name", "unit"))
    about = {"kind": kind, "name": name if isinstance(name, str) else "", "unit": unit if isinstance(unit, str) else ""}
    about |= {"provenance": as_json(dict(item.provenance))}
    if frame is None:
        return about | {"fields": as_json(item)}
    rows = as_json(frame.astype(object).to_numpy().tolist())
    return about | {"columns": [*map(str, frame.columns)], "rows": rows}


def as_json(value: Any) -> Any:
    """A value as JSON has it: records by their fields, tensors as lists."""
    if isinstance(value, Tensor):
        return as_json(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: as_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [as_json(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else number_as_json(value)


def number_as_json(value: Any) -> Any:
    """numpy's numbers and arrays as Python's; anything else as its words."""
    return as_json(value.tolist()) if hasattr(value, "tolist") else str(value)


def show(made: Any, loaded: Any) -> None:
    """The item's words, and the first rows of its table."""
    from residscope.directions import Dictionary

    for part, item in parts_of(made).items():
        typer.echo(f"{part}: {item}" if part else str(item))
        if isinstance(item, Dictionary):
            show_dictionary(item, loaded)
        else:
            show_table(item)


def show_table(item: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    columns, rows, total = table_of(item)
    if not columns:
        return
    table = Table(box=None, pad_edge=False)
    for column in columns[:COLUMNS]:
        table.add_column(as_label(column), overflow="fold")
    for row in rows[:ROWS]:
        table.add_row(*(cell_text(cell) for cell in row[:COLUMNS]))
    Console(highlight=False).print(table, markup=False)
    if total > ROWS:
        typer.echo(f"... and {total - ROWS:,} more rows: --csv FILE, --json FILE, --save FILE")


def table_of(item: Any) -> tuple[list[str], list[list[Any]], int]:
    """Columns, first rows and how many there are: of its table, else of the first table in its picture."""
    frame = frame_of(item)
    if frame is not None:
        return [*map(str, frame.columns)], frame.head(ROWS).astype(object).to_numpy().tolist(), len(frame)
    from residscope.views import Grid, Table

    views = [item.view()]
    while views:
        view = views.pop(0)
        if isinstance(view, Table):
            return (
                [*view.columns],
                [[*row] for row in view.rows],
                len(item) if hasattr(item, "__len__") else len(view.rows),
            )
        views += view.views if isinstance(view, Grid) else ()
    return [], [], 0


def cell_text(cell: Any) -> str:
    from rich.markup import escape

    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.4g}"
    return "-" if cell is None else escape(as_label(str(cell))[:60])


def show_dictionary(dictionary: "Dictionary", loaded: Any) -> None:
    """Where it comes from, and the first directions: variance share, standard deviation, and what each writes to."""
    from residscope import directions

    size = f"{len(dictionary)} directions of width {dictionary.read.shape[1]}"
    typer.echo(f"{directions.new_id(dictionary)}: {dictionary.name} at {dictionary.place}, {size}")
    for key, value in dictionary.provenance.items():
        if key not in ("model", "ids"):
            typer.echo(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    tops = poles(dictionary, loaded)
    lines = []
    for index in range(min(SHOWN, len(dictionary))):
        share = "" if dictionary.variance is None else f"{float(dictionary.variance[index]):.1%}"
        deviation = "" if dictionary.sd is None else f"{float(dictionary.sd[index]):.3g}"
        lines.append((as_label(dictionary.label(index)), share, deviation, tops[index]))
    width = max(len("direction"), *(len(line[0]) for line in lines))
    typer.echo(
        f"{'direction':<{width}} {'share':>6} {'sd':>8}  " + ("top tokens" if wide(dictionary, loaded) else "axes")
    )
    for label, share, deviation, top in lines:
        typer.echo(f"{label:<{width}} {share:>6} {deviation:>8}  {top}")
    if len(dictionary) > SHOWN:
        rest = "" if dictionary.variance is None else f", {float(dictionary.variance[SHOWN:].sum()):.1%}"
        typer.echo(f"... and {len(dictionary) - SHOWN} more{rest}")


def wide(dictionary: "Dictionary", loaded: Any) -> bool:
    return bool(dictionary.read.shape[1] == loaded.model.d_model)


def poles(dictionary: "Dictionary", loaded: Any) -> list[str]:
    """The common tokens whose logits each direction raises most; where it is not of the stream, its largest axes."""
    write = dictionary.write[:SHOWN].float()
    if not wide(dictionary, loaded):
        top = write.abs().topk(min(POLES, write.shape[1])).indices
        return [" ".join(f"{i}:{write[row, i]:+.2f}" for i in ids) for row, ids in enumerate(top.tolist())]
    texts, rows = loaded.common
    if not texts:
        return [""] * len(write)
    top = (write.to(rows) @ rows.T).topk(min(POLES, len(texts))).indices
    return [" ".join(repr(texts[i]) for i in ids) for ids in top.tolist()]
