"""Other people's bytes as values: looked at for size and form before anything is made of them.

Whatever such bytes hold, these functions answer or raise `Unreadable`, which each reader gives the type of its own kind.
"""

import io
import json
import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DEEPEST = 200  # levels of JSON within each other
OWN = 500
LARGEST_WHOLE = 2**64
LARGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
LARGEST_ARRAY_HEADER = 1 << 16  # bytes
NOWHERE = Path(os.devnull, "nothing")
MOST_TENSORS = 1 << 16  # of one file: the largest mixtures of experts have that many in all their shards
# what only a look at every value can judge: a lone surrogate, a whole number of over 64 bits, an exponent that is infinite
_DOUBTFUL = re.compile(r"\\u[dD][89a-fA-F]|\d{19}|[eE]\+?\d{3}|[\ud800-\udfff]")


class Unreadable(ValueError):
    """Bytes that are not what they should be; the message says in what, and is for the end of a sentence."""


def parsed(data: bytes | str, *, constants: bool = False, own: bool = False) -> Any:
    """JSON as the standard has it: finite numbers, whole ones of at most 64 bits, whole characters, 200 levels.

    constants: NaN and Infinity are numbers, as in the configurations that Python programs write. own: what
    `json_values.to_plain` writes, which has texts and whole numbers of any kind, and 500 levels.

    Raises:
        Unreadable.

    >>> parsed('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=None if constants else _no_constant)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise Unreadable(str(error)) from None
    deepest = OWN if own else DEEPEST
    if text.count("[") + text.count("{") > deepest or _DOUBTFUL.search(text):
        _looked_at(value, deepest, constants=constants, own=own)
    return value


def _no_constant(name: str) -> None:
    raise Unreadable(f"{name} is not JSON")


def _looked_at(value: Any, deepest: int, *, constants: bool, own: bool) -> None:
    """Every value, a level at a time."""
    level = [value]
    for _ in range(deepest + 1):
        within: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                within += [*one, *one.values()]
            elif isinstance(one, list):
                within += one
            elif isinstance(one, str) and not own:
                _whole_text(one)
            elif isinstance(one, float) and not constants and not isfinite(one):
                raise Unreadable("a number is too large")
            elif isinstance(one, int) and not own and abs(one) > LARGEST_WHOLE:
                raise Unreadable("a whole number has over 64 bits")
        if not within:
            return
        level = within
    raise Unreadable(f"it is nested too deeply: over {deepest} levels")


def _whole_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unreadable("it has half of a character (a lone surrogate)") from None


def content(path: Path, *, most: int | None = None, part: bool = False) -> bytes:
    """A file's bytes. most: how many it may have; part: of one that has more, so many from its beginning.

    Raises:
        Unreadable: it is none of a disk (a pipe, a device), cannot be read, or is larger. FileNotFoundError.
    """
    try:
        with opened(path) as file:
            return (
                file.read(-1 if most is None else most) if part or most is None else _up_to(file.read(most + 1), most)
            )
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(_reason(error)) from None


def _up_to(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise Unreadable(f"it is larger than the {most:,} bytes that such a file may have")
    return data


def path_of(words: str | Path) -> Path:
    """The path that somebody's words mean, `~` their own folder; of what no file system takes, one at which nothing lies."""
    try:
        path = Path(words).expanduser()
        path.exists()
        path.resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a `~` of nobody, links in a ring, NUL
        return NOWHERE
    return path


def opened(path: Path) -> BinaryIO:
    """A file on a disk, to be read. Raises Unreadable: it is none (a folder, a pipe, a device); OSError."""
    return open(path, "rb", opener=_of_a_disk)


def _of_a_disk(path: str, flags: int) -> int:
    """A descriptor: what has no end, or no other end, is refused before it is waited for."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not regular(handle):
        os.close(handle)
        raise Unreadable("it is no file (a folder, a pipe or a device)")
    return handle


def regular(path: str | Path | int) -> bool:
    """Whether there is a file, or behind a link a file: no folder, pipe, socket or device. Of a name with NUL there is none."""
    try:
        return (os.stat(path).st_mode & 0o170000) == 0o100000
    except (OSError, ValueError):
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ── safetensors ─────────────────────────────────────────────────────────────────────────────────────────────────


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, whose tensors are as long as their shapes say and fill the file one after another.

    Raises:
        Unreadable. FileNotFoundError.
    """
    try:
        with opened(path) as file:
            have = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            if size > min(LARGEST_HEADER, have - 8):
                raise Unreadable("its header is longer than the file")
            told = parsed(file.read(size))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(_reason(error)) from None
    _fills(told, have - 8 - size)
    return dict(told)


BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16,
    "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def _fills(told: Any, size: int) -> None:
    if not isinstance(told, dict):
        raise Unreadable("its header is no mapping")
    said = told.get("__metadata__")
    if said is not None and not (isinstance(said, dict) and all(isinstance(word, str) for word in said.values())):
        raise Unreadable("what its header says about it is no mapping of texts")
    if len(told) > MOST_TENSORS:
        raise Unreadable(f"it has {len(told):,} tensors, and {MOST_TENSORS:,} are read")
    spans = sorted(_span(name, entry) for name, entry in told.items() if name != "__metadata__")
    end = 0
    for start, stop in spans:
        if start != end:
            raise Unreadable("its tensors overlap, or leave gaps")
        end = stop
    if end != size:
        raise Unreadable("it is truncated" if size < end else "it is longer than it says")


def _span(name: str, entry: Any) -> tuple[int, int]:
    try:
        bits, shape, (start, stop) = BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (start, stop, *shape)):
            raise Unreadable(f"{name[:80]} has no shape or place")
    except (KeyError, TypeError, ValueError):
        raise Unreadable(f"{name[:80]} is not described as a tensor is") from None
    for n in shape:
        bits *= n
        if bits > 8 * (LARGEST_WHOLE + 1):
            break
    if bits != 8 * (stop - start):
        raise Unreadable(f"{name[:80]} is of another size than its shape says")
    return start, stop


def facts_of(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself, as texts. Raises Unreadable, FileNotFoundError."""
    return dict(header(path).get("__metadata__") or {})


def tensors_at(path: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and what it says about itself. Raises Unreadable, FileNotFoundError."""
    from safetensors import SafetensorError, safe_open

    facts = facts_of(path)
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise Unreadable(_reason(error)) from None


def tensors_in(data: bytes) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors in safetensors bytes, and what they say about themselves. Raises Unreadable."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(LARGEST_HEADER, len(data) - 8):
        raise Unreadable("its header is longer than the file")
    told = parsed(data[8 : 8 + size])
    _fills(told, len(data) - 8 - size)
    try:
        return load(data), dict(told.get("__metadata__") or {})
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise Unreadable(_reason(error)) from None


# ── other files of numbers ──────────────────────────────────────────────────────────────────────────────────────


def array_header(file: BinaryIO) -> tuple[tuple[int, ...], "np.dtype[Any]", int]:
    """The shape and dtype that an open .npy file begins with, and how many bytes say so.

    Raises Unreadable: it begins otherwise, or holds objects of Python's.
    """
    from tokenize import TokenError

    from numpy.lib import format

    start = io.BytesIO(file.read(LARGEST_ARRAY_HEADER))
    try:
        version = format.read_magic(start)
        read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
        shape, _, dtype = read(start)
    except (ValueError, TypeError, EOFError, SyntaxError, TokenError, RecursionError) as error:
        raise Unreadable(f"it begins as no array does ({_reason(error)[:200]})") from None
    if dtype.hasobject:
        raise Unreadable("it holds Python objects, which are not opened")
    return shape, dtype, start.tell()


def torch_values(path: Path) -> Any:
    """What a torch file holds, on the CPU, opened by its reader of plain tensors alone (`weights_only`), which runs no code.

    Raises Unreadable: it is damaged, has code in it, or a tensor in it is larger than what is stored of it. FileNotFoundError.
    """
    import torch

    opened(path).close()
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its reader makes of a damaged pickle
        found = re.search(r"Unsupported \w+: .{1,100}?(?= was|$)|GLOBAL \S+", str(error))
        raise Unreadable(
            f"it holds more than plain tensors, or is damaged ({found[0] if found else type(error).__name__})"
        ) from None
    _stored(held)
    return held


def _stored(held: Any) -> None:
    """Refuse a tensor that takes more when it is copied than the file has of it."""
    import torch

    left, seen = [held], set[int]()
    while left:
        part = left.pop()
        if isinstance(part, torch.Tensor):
            dense = part.layout is torch.strided and not part.is_meta
            if not dense or part.numel() * part.element_size() > part.untyped_storage().nbytes():
                raise Unreadable("a tensor in it is not dense, or says that it is larger than what is stored of it")
        elif id(part) not in seen:
            seen.add(id(part))
            left += part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """A value that is a mapping. Raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is a {type(value).__name__}, not a mapping")
    return value
