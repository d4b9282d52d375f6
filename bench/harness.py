"""Paired timing: A B A B ..., so that a machine whose speed drifts slows both; medians and the spread of the ratios."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

Timed = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One comparison: `ours` against `theirs`, in seconds or bytes, and ours / theirs pair by pair."""

    name: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    reach: float | None
    pairs: int
    note: str = ""
    unit: str = "s"
    bench: str = ""
    when: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.reach is None else self.ratio <= self.reach


def pair(
    name: str, ours: Timed, theirs: Timed, *, pairs: int = 15, reach: float | None = None, note: str = "", warm: int = 2
) -> Row:
    """Time two callables in turn; the ratio is the median of the pairs', low and high its quartiles."""
    for _ in range(warm):
        ours()
        theirs()
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        a, b = _seconds(first), _seconds(second)
        times.append((a, b) if i % 2 == 0 else (b, a))
    ratios = [a / b for a, b in times]
    low, ratio, high = statistics.quantiles(ratios, n=4) if pairs > 1 else (ratios[0],) * 3
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(name, mine, other, ratio, low, high, reach, pairs, note)


def paired(
    name: str, ours: Timed, theirs: Callable[[], float], *, pairs: int, reach: float | None = None, note: str = ""
) -> Row:
    """As `pair`, for another that tells its own seconds."""
    ours()
    theirs()
    times = [(_seconds(ours), theirs()) if i % 2 == 0 else (theirs(), _seconds(ours))[::-1] for i in range(pairs)]
    low, ratio, high = statistics.quantiles([a / b for a, b in times], n=4)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(name, mine, other, ratio, low, high, reach, pairs, note)


def _seconds(call: Timed) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def machine() -> dict[str, object]:
    """What a figure is worth nothing without."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def report(rows: Iterator[tuple[str, Row]], out: Path, *, anew: bool) -> None:
    """Print each bench's rows as they come, and write them as a table (results.md) and as JSON: what is measured outlives
    what fails. The earlier rows of a bench make way for its new ones; `anew`: those of all benches."""
    kept: dict[str, list[Row]] = {}
    for row in [] if anew else _read(out):
        kept.setdefault(row.bench, []).append(row)
    begun: set[str] = set()
    for bench, row in rows:
        if bench not in begun:
            begun.add(bench)
            kept[bench] = []
        kept[bench].append(replace(row, bench=bench, when=time.strftime("%Y-%m-%d")))
        print(_told(row), flush=True)
        _write([row for rows in kept.values() for row in rows], out)


def _read(out: Path) -> list[Row]:
    """The rows of an earlier table."""
    try:
        return [Row(**row) for row in json.loads((out / "results.json").read_text())["rows"]]
    except FileNotFoundError:
        return []


def _write(done: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"machine": machine(), "rows": [asdict(r) for r in done]}, indent=1))
    about = ", ".join(f"{k} {v}" for k, v in machine().items())
    lines = ["| what | ours | beside | ratio | quartiles | reach | on |", "|---|---|---|---|---|---|---|"]
    for r in done:
        what, reach = f"{r.name}; {r.note}" if r.note else r.name, "" if r.reach is None else f"<= {r.reach:g}"
        spread = f"{r.low:.2f} to {r.high:.2f} ({r.pairs} pairs)"
        numbers = f"{_amount(r.ours, r.unit)} | {_amount(r.theirs, r.unit)} | **{r.ratio:.2f}**"
        lines.append(f"| {what} | {numbers} | {spread} | {reach} | {r.when} |")
    (out / "results.md").write_text("# Measured\n\nMade by `make bench`. " + about + ".\n\n" + "\n".join(lines) + "\n")


def _told(row: Row) -> str:
    state = {True: "reached", False: "missed", None: ""}[row.reached]
    reach = "" if row.reach is None else f"reach {row.reach:g}: {state}"
    times = f"{_amount(row.ours, row.unit):>9} : {_amount(row.theirs, row.unit):>9}"
    return f"{row.name:40} {times}   {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})  {reach}"


def _amount(x: float, unit: str) -> str:
    if unit == "share":
        return f"{x:.3f}"
    return f"{x / 1e6:.1f} MB" if unit == "bytes" else _s(x)


def _s(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
