"""Any labelled prompts, from a CSV or JSONL file.

    text,@subject,tense
    The keys to the cabinet are on the table,keys,present

Columns: `text`; `corrupted`, its partner; `answer` and `wrong`, the two next tokens to compare; `@name`, a named position: the
words it ends with, `words#2` for their second occurrence, or characters `start:end`; every other column is a label. In JSONL
each line is an object with the same keys.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from residscope.engine.model import Model
from residscope.errors import BadPrompt, BadTable, ResidscopeError
from residscope.incoming import Unreadable, parsed
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.tasks.spans import Located, locate

Cells = Mapping[str, Any]
KNOWN = ("text", "corrupted", "answer", "wrong")


def from_file(model: Model, path: str | Path, *, progress: Progress = None, cancel: Cancel = None) -> PromptSet:
    """The labelled prompts of a file, tokenized; an empty cell of a position column says that the prompt lacks it.

    Every prompt also has the position END, its last token.

    Raises:
        BadTable: naming the line and the column: no text, words that are not in it, a ragged line, bad JSON, an unknown encoding.
        Cancelled: `cancel` said so.
    """
    path = Path(path).expanduser()
    return from_text(model, _open(path), name=path.name, progress=progress, cancel=cancel)


def from_text(model: Model, text: str, *, name: str, progress: Progress = None, cancel: Cancel = None) -> PromptSet:
    """`from_file` of a file's text; its name says which kind it is, .csv or .jsonl. Raises BadTable, Cancelled."""
    path = _table(Path(name).name)
    rows = list(_csv(path, text) if path.suffix == ".csv" else _jsonl(path, text))
    if not rows:
        raise BadTable("the file has no prompts", received=path.name, allowed="a line for each prompt")
    columns = list(rows[0][1])
    for line, cells in rows:
        _check_columns(path, line, cells, columns)
    located: list[Located] = []
    corrupted: list[tuple[int, ...]] = []
    with stage("Reading prompts", len(rows), progress, cancel) as tell:
        for line, cells in rows:
            located.append(_located(path, model, line, cells, "text"))
            if "corrupted" in columns:
                corrupted.append(_located(path, model, line, cells, "corrupted").ids)
            tell(len(located))
    ends = {"END": tuple(len(one.ids) - 1 for one in located)}
    spans = [column for column in columns if column.startswith("@")]
    both = "answer" in columns and "wrong" in columns
    return PromptSet(
        prompts=tuple(one.ids for one in located),
        texts=tuple(cells["text"] for _, cells in rows),
        corrupted=tuple(corrupted) if "corrupted" in columns else None,
        answers=tuple(tuple(_answer(path, model, line, cells, c) for c in ("answer", "wrong")) for line, cells in rows)  # type: ignore[misc]
        if both
        else None,
        labels={c: tuple(cells[c] for _, cells in rows) for c in columns if c not in KNOWN and c not in spans},
        positions=ends
        | {
            c[1:]: tuple(_index(path, one, line, cells, c) for one, (line, cells) in zip(located, rows, strict=True))
            for c in spans
        },
        name=path.name,
    )


def _table(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix not in (".csv", ".jsonl"):
        raise BadTable("no such table of prompts", received=str(path), allowed="a .csv or .jsonl file that exists")
    return path


def _open(path: Path) -> str:
    if not _table(path).is_file():
        raise BadTable("no such table of prompts", received=str(path), allowed="a .csv or .jsonl file that exists")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadTable(
            f"{path.name}, line {line}: not UTF-8",
            received=repr(raw[error.start : error.start + 8]),
            fix="save the file as UTF-8",
        ) from None


def _csv(path: Path, text: str) -> Iterator[tuple[int, Cells]]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    raise BadTable(f"{path.name}, line 1: a column twice", received=", ".join(header))
                continue
            if len(cells) != len(header):
                raise BadTable(
                    f"{path.name}, line {line}: a ragged line",
                    received=f"{len(cells)} cells",
                    allowed=f"{len(header)}: {', '.join(header)}",
                    fix="put a cell with commas in quotes",
                )
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadTable(f"{path.name}, line {reader.line_num}: not CSV", received=str(error)) from None


def _jsonl(path: Path, table: str) -> Iterator[tuple[int, Cells]]:
    for line, text in enumerate(table.split("\n"), 1):
        if not text.strip():
            continue
        try:
            cells = parsed(text)
        except Unreadable as error:
            raise BadTable(f"{path.name}, line {line}: not JSON", received=str(error)) from None
        if not isinstance(cells, dict):
            raise BadTable(f"{path.name}, line {line}: not an object", received=type(cells).__name__, allowed="{...}")
        yield line, cells


def _check_columns(path: Path, line: int, cells: Cells, columns: list[str]) -> None:
    missing = [column for column in columns if column not in cells] or ([] if "text" in cells else ["text"])
    extra = [column for column in cells if column not in columns]
    if missing or extra:
        raise BadTable(
            f"{path.name}, line {line}: " + ("missing column" if missing else "unknown column"),
            received=", ".join(missing or extra),
            allowed=", ".join(columns if "text" in columns else ["text", *columns]),
        )
    for column in columns:
        if column in cells and isinstance(cells[column], dict | list) and not column.startswith("@"):
            raise BadTable(
                f"{path.name}, line {line}, column {column}: not a text or number", received=repr(cells[column])[:80]
            )


def _text(path: Path, line: int, cells: Cells, column: str) -> str:
    if not isinstance(cells[column], str) or not cells[column]:
        raise BadTable(
            f"{path.name}, line {line}, column {column}: no text", received=repr(cells[column]), allowed="some text"
        )
    return cells[column]


def _located(path: Path, model: Model, line: int, cells: Cells, column: str) -> Located:
    try:
        located = locate(model, _text(path, line, cells, column))
    except BadPrompt as error:
        raise _here(path, line, column, error) from None
    if len(located.ids) > model.context:
        raise BadTable(
            f"{path.name}, line {line}, column {column}: longer than the model's context",
            received=f"{len(located.ids)} tokens",
            allowed=f"at most {model.context}",
        )
    return located


def _answer(path: Path, model: Model, line: int, cells: Cells, column: str) -> str:
    answer = _text(path, line, cells, column)
    try:
        model.token_id(answer)
    except ResidscopeError as error:
        raise _here(path, line, column, error) from None
    return answer


def _here(path: Path, line: int, column: str, error: ResidscopeError) -> BadTable:
    """What was wrong with a cell, and which."""
    where = f"{path.name}, line {line}, column {column}"
    return BadTable(f"{where}: {error.failed}", received=error.received, allowed=error.allowed, fix=error.fix)


def _index(path: Path, located: Located, line: int, cells: Cells, column: str) -> int | None:
    """The last token of a span; None for an empty cell."""
    span, text = cells[column], cells["text"]
    if span in ("", None):
        return None
    found = located.last(_end(f"{path.name}, line {line}, column {column}", span, text))
    assert found is not None
    return found


def _end(where: str, span: Any, text: str) -> int:
    """The character after a span's last."""
    if isinstance(span, str) and (match := re.fullmatch(r"(\d+):(\d+)", span)):
        span = [int(match[1]), int(match[2])]
    if isinstance(span, list):
        if not (len(span) == 2 and all(isinstance(x, int) for x in span) and 0 <= span[0] < span[1] <= len(text)):
            raise BadTable(f"{where}: no such characters", received=str(span), allowed=f"start < end <= {len(text)}")
        return span[1]
    if not isinstance(span, str):
        raise BadTable(f"{where}: not a span", received=repr(span), allowed='words of the text, or "start:end"')
    words, _, number = span.rpartition("#") if re.search(r"#\d+$", span) else (span, "", "")
    ends = [match.end() for match in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text)]
    if not ends or (number and not 1 <= int(number) <= len(ends)):
        raise BadTable(f"{where}: not in the text", received=repr(span), allowed=repr(text[:80]))
    if len(ends) > 1 and not number:
        raise BadTable(
            f"{where}: {len(ends)} times in the text", received=repr(span), fix=f"say which, such as {words}#2"
        )
    return ends[int(number or 1) - 1]
