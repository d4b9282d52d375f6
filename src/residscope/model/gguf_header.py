"""The header of a GGUF file, walked through before anything is made of it: no count or length is more than the file has."""

import mmap
import struct
from pathlib import Path

from residscope.incoming import Unreadable, opened

MAGIC = b"GGUF"
SIZES = {
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 4,
    5: 4,
    6: 4,
    7: 1,
    10: 8,
    11: 8,
    12: 8,
}  # bytes of a number, by the number of its type
TEXT, ARRAY = 8, 9
MOST_VALUES = 1 << 21  # of one array: the largest vocabularies have a tenth of it
MOST_AXES = 8


def walked(path: Path) -> tuple[int, int]:
    """How many tensors a file describes, and the elements of all. Raises Unreadable, FileNotFoundError."""
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data).tensors()
    except (OSError, ValueError, struct.error) as error:
        if isinstance(error, Unreadable | FileNotFoundError):
            raise
        raise Unreadable(f"it is truncated ({error})") from None


class _Walk:
    """A place in a file's header, which only moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 8
        if data[:4] != MAGIC:
            raise Unreadable("it does not begin as one")
        self.order = ">" if data[4:6] == b"\0\0" else "<"  # the version is small
        self.described, keys = self.number("Q"), self.number("Q")
        for _ in range(keys):
            self.text()
            self.value(self.number("I"))

    def number(self, code: str) -> int:
        (found,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += struct.calcsize(code)
        return int(found)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise Unreadable("it is truncated, or a length in it is not true")
        self.at += size

    def text(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int, *, within: bool = False) -> None:
        if kind in SIZES:
            self.skip(SIZES[kind])
        elif kind == TEXT:
            self.text()
        elif kind == ARRAY and not within:
            inner, count = self.number("I"), self.number("Q")
            if count > MOST_VALUES:
                raise Unreadable(f"an array in it has {count:,} values, and {MOST_VALUES:,} are read")
            if inner in SIZES:
                self.skip(count * SIZES[inner])
            else:
                for _ in range(count):
                    self.value(inner, within=True)
        else:
            raise Unreadable(f"a value in it is of no type that is read ({kind})")

    def tensors(self) -> tuple[int, int]:
        elements = 0
        for _ in range(self.described):
            self.text()
            if (axes := self.number("I")) > MOST_AXES:
                raise Unreadable(f"a tensor in it has {axes:,} axes")
            size = 1
            for _ in range(axes):
                size *= self.number("Q")
            if size > 8 * len(self.data):  # a bit each
                raise Unreadable("a tensor in it is larger than the file")
            elements += size
            self.skip(12)  # its type and its place
        return self.described, elements
