"""A file's bytes, unpacked where it is packed, a little at a time: damage is an error, wherever it stands."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from residscope.errors import MissingExtra
from residscope.incoming import opened

PACKED = (".gz", ".zst")
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
CHUNK = 1 << 18  # bytes


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, of one that is packed by gzip or Zstandard what is in it.

    Reading raises one of BROKEN where a packed file is damaged or cut short. Raises MissingExtra: no zstandard.
    """
    with opened(path) as raw:
        match path.suffix.lower():
            case ".gz":
                with gzip.GzipFile(fileobj=raw) as packed:
                    yield cast(BinaryIO, packed)
            case ".zst":
                yield cast(BinaryIO, io.BufferedReader(Zstandard(raw, path.name), CHUNK))
            case _:
                yield raw


class Zstandard(io.RawIOBase):
    """What one Zstandard frame after another unpacks to; EOFError where the last one is not whole, or bytes are damaged."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra(
                "Zstandard files need zstandard", received=name, fix="`pip install residscope[zst]`"
            ) from error
        self._raw, self._error = raw, zstandard.ZstdError
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._parts = self._unpack()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part)
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken

    def _unpack(self) -> Iterator[bytes]:
        """The content in parts of about CHUNK bytes, however tightly it is packed."""
        frame, taken = None, 1 << 10
        try:
            while packed := self._raw.read(taken):
                while packed:
                    frame = self._unpacker.decompressobj() if frame is None else frame
                    yield (part := frame.decompress(packed))
                    taken = max(64, min(CHUNK // 8, taken * CHUNK // max(1, len(part))))
                    packed = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
        except self._error as error:
            raise EOFError(str(error)) from error
        if frame is not None:
            raise EOFError("the file ends within a frame")
