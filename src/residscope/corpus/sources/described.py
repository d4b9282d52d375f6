"""A corpus with how it is read, in one value, or in one line of text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residscope.corpus.hub import DataSet
from residscope.corpus.sources.documents import Document, content_hash
from residscope.corpus.sources.order import SIDES, WINDOW, Order, Place, blocks
from residscope.corpus.sources.pieces import Base, Files, pieces_of
from residscope.corpus.sources.sampled import Sampled
from residscope.errors import CorpusError
from residscope.progress import Tell

_OPTION = r"[a-z_]+(?:=[^&?#/]*)?"
_SPOKEN = re.compile(rf"(?P<base>[^#]*)\?(?P<options>{_OPTION}(?:&{_OPTION})*)(?P<field>#.*)?")
OPTIONS = ("pack", "shuffle", "window", "split", "held_out", "labels", "cache")
OF_THE_MODEL = ("tokens", "seed", "temperature")
FORMS = "pack, shuffle=SEED, window=N, split=train|held-out, held_out=SHARE, labels=A,B, cache=0"


@dataclass(frozen=True)
class Text:
    """A corpus and how it is read: wherever a corpus is taken, this is. See `rs.text`."""

    source: Base | Files | Sampled
    pack: bool = False
    order: Order = field(default_factory=Order)
    labels: tuple[str, ...] = ()
    cache: bool = True

    @property
    def other_side(self) -> "Text":
        """The same corpus, of a split the side that this is not."""
        other = SIDES[1 - SIDES.index(self.order.split or "train")]
        return replace(self, order=replace(self.order, split=other))

    @property
    def options(self) -> dict[str, Any]:
        """What is said of which rows it gives, where that is not the default."""
        order = self.order
        said: dict[str, Any] = {"pack": True} if self.pack else {}
        said |= {} if order.shuffle is None else {"shuffle": order.shuffle}
        said |= {} if order.shuffle is None or order.window == WINDOW else {"window": order.window}
        said |= {} if order.split is None else {"split": order.split, "held_out": order.held_out}
        return said | ({"labels": ",".join(self.labels)} if self.labels else {})

    def named(self, base: str) -> str:
        """What a corpus of this name is called when it is read so: what finds the very same rows again."""
        options = "&".join(name if value is True else f"{name}={value}" for name, value in self.options.items())
        if not options:
            return base
        place, mark, rest = base.partition("#")
        return f"{place}{'&' if '?' in place else '?'}{options}{mark}{rest}"

    def __iter__(self) -> Iterator[str]:
        """Its documents' texts, of its side of the split and in its order."""
        for document in self.documents():
            yield document.text

    def documents(self, tell: Tell = lambda: None) -> Iterator[Document]:
        """Its documents, with their labels. Raises what reading them does."""
        pieces = self.order.pieces(pieces_of(self.source, self.labels))

        def read(piece: Any, _: int) -> Iterator[_Hashed]:
            return (_Hashed(document, content_hash(document.text)) for document in piece.read(tell))

        for block in blocks(pieces, self.order, read, Place(), tell):
            for _, hashed in block.documents:
                yield hashed.document


@dataclass(frozen=True)
class _Hashed:
    document: Document
    content: int


def spoken(words: str) -> tuple[str, dict[str, str]] | None:
    """`BASE?OPTION&OPTION#FIELD` as `BASE#FIELD` and the options; None where no options are said."""
    match = _SPOKEN.fullmatch(words)
    if match is None:
        return None
    pairs = (option.partition("=") for option in match["options"].split("&"))
    return match["base"] + (match["field"] or ""), {name: value for name, _, value in pairs}


def described(source: Base | Files | Sampled, options: Mapping[str, Any]) -> Text:
    """A corpus with options, as text has them or as Python does. Raises CorpusError."""
    for name in options:
        if name not in OPTIONS:
            raise CorpusError("a text is not read so", received=name, allowed=FORMS)
    try:
        order: dict[str, Any] = {
            name: read(options[name])
            for name, read in (("shuffle", _whole), ("window", _whole), ("split", _side), ("held_out", float))
            if options.get(name) is not None
        }
        labels = options.get("labels", ())
        return Text(
            source,
            pack=_flag(options.get("pack", False)),
            order=Order(**order),
            labels=tuple(part for part in labels.split(",") if part) if isinstance(labels, str) else tuple(labels),
            cache=_flag(options.get("cache", True)),
        )
    except (ValueError, TypeError) as error:
        said = "&".join(f"{name}={value}" for name, value in options.items())
        raise CorpusError("a text is not read so", received=said, allowed=FORMS) from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (not isinstance(value, int) and not str(value).isdecimal()):
        raise ValueError(value)
    return int(value)


def _side(value: Any) -> str:
    return str(value).replace("_", "-")


def _flag(value: Any) -> bool:
    if value in ("", "1", True):
        return True
    if value in ("0", False):
        return False
    raise ValueError(value)


def name_of(source: object) -> str:
    """What an opened corpus is called."""
    if isinstance(source, Text):
        return source.named(name_of(source.source))
    if isinstance(source, DataSet | Files | Sampled):
        return source.name
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name", "texts")) if isinstance(source, list) else "texts"
