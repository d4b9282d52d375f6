"""The one reader of a corpus: its texts as rows of token ids."""

from collections.abc import Iterator

from residscope.corpus.text import Source, rows, texts
from residscope.engine.model import Model
from residscope.progress import Tell

LENGTH = 128  # tokens of a row


def batches(
    model: Model, corpus: Source, *, tokens: int, length: int, size: int, tell: Tell
) -> Iterator[list[list[int]]]:
    """The first `tokens` tokens of a corpus, in rows of at most `length`, so many rows at a time.

    Raises:
        CorpusError: the text cannot be used. Cancelled: between two texts.
    """

    def tokenized() -> Iterator[list[int]]:
        for text in texts(corpus):
            tell()
            yield model._encode(text, None)

    batch: list[list[int]] = []
    for row in rows(tokenized(), length=min(length, model.context), budget=tokens):
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
