"""Reading a corpus: ids that are kept against tokenising, packed rows against one document a row, packed files against plain."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import residscope as rs
from bench.harness import Row, pair
from residscope.corpus.reading import Reader
from residscope.corpus.sources.files import documents_of
from residscope.corpus.text import english

TOKENS = 400_000


def rows(*, quick: bool = False) -> Iterator[Row]:
    """A pass over general English of a megabyte, and how fast its files are read."""
    model, pairs = rs.load("smollm2-135m"), 3 if quick else 15
    with TemporaryDirectory() as folder:
        file = Path(folder) / "english.txt"
        file.write_text("\n\n".join(english()))
        before = os.environ.get("RESIDSCOPE_CACHE")
        os.environ["RESIDSCOPE_CACHE"] = folder
        try:
            yield from _ids(model, file, pairs)
        finally:
            os.environ.pop("RESIDSCOPE_CACHE")
            os.environ |= {} if before is None else {"RESIDSCOPE_CACHE": before}
        yield from _packed(file, pairs)


def _ids(model: rs.Model, file: Path, pairs: int) -> Iterator[Row]:
    def read(**how: bool) -> Callable[[], int]:
        def passed() -> int:
            return sum(len(row.ids) for row in Reader(model, rs.text(file, **how)).rows(length=128, tokens=TOKENS))

        return passed

    tokens = read(cache=False)()
    note = f"a second pass over {tokens:,} tokens, ids from the cache, against tokenising them"
    yield pair("a second pass over a text", read(), read(cache=False), pairs=pairs, note=note)
    note = "the same pass packed into whole rows, shuffled by nothing, against a document a row; ids kept"
    yield pair("packing a text", read(pack=True), read(), pairs=pairs, note=note)


def _packed(file: Path, pairs: int) -> Iterator[Row]:
    import zstandard

    packed = file.with_suffix(".txt.zst")
    packed.write_bytes(zstandard.ZstdCompressor().compress(file.read_bytes()))
    note = f"{packed.stat().st_size:,} bytes of Zstandard against {file.stat().st_size:,} of text"
    yield pair(
        "reading a packed file", lambda: sum(1 for _ in documents_of(packed)), lambda: sum(1 for _ in documents_of(file)),
        pairs=pairs, note=note,
    )  # fmt: skip
