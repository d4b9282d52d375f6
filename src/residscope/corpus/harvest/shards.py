"""A text cut into shards: the same rows in the same shards whoever reads them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from residscope.corpus.reading import Reader
from residscope.progress import Tell

ROWS = 8  # of a forward
SHARD = 128  # rows of a shard: 16,384 tokens in rows of 128


@dataclass(frozen=True)
class Shard:
    """Rows of token ids that are read together. first, token: how many rows and tokens of the text come before them."""

    number: int
    first: int
    token: int
    rows: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def digest(self) -> str:
        """sha256 of its rows."""
        hashed = hashlib.sha256(f"{self.first} {self.token} {[*map(len, self.rows)]}".encode())
        for row in self.rows:
            hashed.update(np.asarray(row, dtype="<i8").tobytes())
        return hashed.hexdigest()

    def batches(self, size: int = ROWS) -> Iterator[list[list[int]]]:
        return (self.rows[start : start + size] for start in range(0, len(self.rows), size))


def shards(reader: Reader, *, tokens: int, length: int, rows: int, tell: Tell) -> Iterator[Shard]:
    """The first `tokens` tokens of a text, so many rows a shard. Raises EmptyCorpus, CorpusError, Cancelled."""
    first = token = 0
    for number, batch in enumerate(reader.batches(length=length, tokens=tokens, size=rows, tell=tell)):
        shard = Shard(number, first, token, batch)
        yield shard
        first, token = first + len(batch), token + shard.tokens
