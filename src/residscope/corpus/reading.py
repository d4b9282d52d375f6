"""The one reader of a corpus: its texts as rows of token ids, each with where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from residscope.corpus.text import Source, called, opened, texts
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.errors import CorpusError, EmptyCorpus
from residscope.progress import Tell

LENGTH = 128  # tokens of a row
SHORTEST = 8  # tokens of a row that is read
UNREAD = "characters without a token"


@dataclass(frozen=True)
class Row:
    """Tokens that a model reads together: those of the corpus' text number `text`, from its token `start` on."""

    ids: list[int]
    text: int
    start: int


class Reader:
    """A corpus as one model reads it. `unread`: characters of what was read that the tokenizer has no token for, left out.

    Such are NUL, halves of surrogate pairs, and what byte-pair merging without an unknown token drops; a prompt that holds one is
    refused, but a long text is read without them, and `about` says how many they were.
    """

    def __init__(self, model: Model, corpus: Source) -> None:
        self.model, self.source = model, opened(corpus)
        self.unread = 0

    @classmethod
    def of(cls, model: Model, corpus: "Source | Reader") -> "Reader":
        return corpus if isinstance(corpus, Reader) else cls(model, corpus)

    @property
    def about(self) -> dict[str, Any]:
        """For a provenance: what the corpus is called, and what of it was not read, if anything."""
        return {"corpus": called(self.source)} | ({UNREAD: self.unread} if self.unread else {})

    def rows(
        self, *, length: int, tokens: int, least: int = SHORTEST, skip: int = 0, tell: Tell = lambda: None
    ) -> Iterator[Row]:
        """Each text cut into rows of `length` tokens, until `tokens` of them have been given. Rows under `least` are dropped.

        length: or the model's context, if that is less. skip: so many tokens go by before. tell: asked before each text.

        Raises:
            EmptyCorpus: there was not one row. CorpusError: the text cannot be used. Cancelled: `tell` said so.
        """
        length = min(length, self.model.context)
        gone = given = 0
        for number, text in enumerate(texts(self.source)):
            tell()
            ids = self._ids(number, text)
            for start in range(max(0, skip - gone), len(ids), length):
                row = ids[start : start + length]
                if len(row) < least:
                    continue
                yield Row(row, number, start)
                given += len(row)
                if given >= tokens:
                    return
            gone += len(ids)
        if given == 0:
            raise EmptyCorpus(f"the text gave no row of {least} tokens or more", fix="give longer texts")

    def batches(self, *, length: int, tokens: int, size: int, tell: Tell) -> Iterator[list[list[int]]]:
        """The ids of `rows`, so many rows at a time."""
        batch: list[list[int]] = []
        for row in self.rows(length=length, tokens=tokens, tell=tell):
            batch.append(row.ids)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _ids(self, number: int, text: object) -> list[int]:
        if not isinstance(text, str):
            raise CorpusError(f"text {number} is no text", received=f"{type(text).__name__}", allowed="strings")
        ids, unread = encoding.read(self.model, text)
        self.unread += unread
        return ids
