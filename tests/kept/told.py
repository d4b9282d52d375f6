"""What is kept of version 0.1, and what the tests compare it with."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "v0_1"
NUMBERS: dict[str, Any] = json.loads((HERE / "numbers.json").read_text())


def lines(name: str) -> list[dict[str, Any]]:
    """A file of a JSON value a line."""
    return [json.loads(line) for line in (HERE / name).read_text().split("\n") if line]


def lacking(kept: Any, now: Any, at: str = "") -> list[str]:
    """Where `now` has not what `kept` has; more keys may be there."""
    if isinstance(kept, dict):
        absent = [f"{at}.{key}" for key in kept if not isinstance(now, dict) or key not in now]
        return absent or [gap for key in kept for gap in lacking(kept[key], now[key], f"{at}.{key}")]
    if isinstance(kept, list):
        if not isinstance(now, list | tuple) or len(now) != len(kept):
            return [f"{at}: {now!r}, not {kept!r}"]
        return [gap for i, (a, b) in enumerate(zip(kept, now, strict=True)) for gap in lacking(a, b, f"{at}[{i}]")]
    return [] if kept == now else [f"{at}: {now!r}, not {kept!r}"]


def flipped(data: bytes, at: int) -> bytes:
    """With one bit of a byte changed."""
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
