"""Counts of tokens, pairs and skip trigrams in a text, as far as one prompt asks for them, and what they predict."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

ADDED = 0.1  # to the count of every token
APART = 8  # tokens in a row that a row of text and the prompt may not share


class Counts:
    """What follows each token of a prompt in a text, and each with an earlier one at most `reach` tokens before it.

    A row of the text that has 8 tokens in a row as the prompt has them is left out, so that no prompt is told its own ending.
    """

    def __init__(self, prompt: Sequence[int], reach: int, d_vocab: int) -> None:
        self.prompt, self.reach, self.d_vocab = [*prompt], reach, d_vocab
        self.tokens, self.left_out = 0, 0
        self.single, self.after = Counter[int](), defaultdict[int, Counter[int]](Counter)
        self.skip = defaultdict[tuple[int, int], Counter[int]](Counter)
        self._own = set(_runs(self.prompt))
        self._asked: dict[int, set[int]] = {}
        for pos, b in enumerate(self.prompt):
            self._asked.setdefault(b, set()).update(self.earlier(self.prompt, pos))

    def earlier(self, row: Sequence[int], pos: int) -> set[int]:
        """The tokens within reach before a position."""
        return set(row[max(0, pos - self.reach) : pos])

    def add(self, row: Sequence[int]) -> None:
        """A row of the text."""
        if not self._own.isdisjoint(_runs(row)):
            self.left_out += 1
            return
        self.tokens += len(row)
        self.single.update(row)
        for pos, (b, c) in enumerate(pairwise(row)):
            if b in self._asked:
                self.after[b][c] += 1
                for a in self.earlier(row, pos) & self._asked[b]:
                    self.skip[a, b][c] += 1

    def predictions(self, pos: int) -> tuple[Float[Tensor, " vocab"], Float[Tensor, " vocab"], Float[Tensor, " vocab"]]:
        """Of the token after a position of the prompt: by the unigram, the bigram, and the skip trigrams, each sums to 1."""
        single = self._unigram()
        b = self.prompt[pos]
        pair = self._backed(self.after[b], single)
        before = self.earlier(self.prompt, pos)
        skipped = torch.stack([self._backed(self.skip[a, b], pair) for a in before]).mean(0) if before else pair
        return single, pair, skipped

    def seen(self, pos: int, token: int) -> tuple[int, int, int]:
        """How often the token, the pair, and one of its skip trigrams stood in the text."""
        b = self.prompt[pos]
        skips = sum(self.skip[a, b][token] for a in self.earlier(self.prompt, pos))
        return self.single[token], self.after[b][token], skips

    def _unigram(self) -> Float[Tensor, " vocab"]:
        counts = self._dense(self.single) + ADDED
        return counts / counts.sum()

    def _backed(self, counts: Counter[int], coarser: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        kinds = len(counts)
        return (self._dense(counts) + kinds * coarser) / (counts.total() + kinds) if kinds else coarser

    def _dense(self, counts: Counter[int]) -> Float[Tensor, " vocab"]:
        found = torch.zeros(self.d_vocab, dtype=torch.float64)
        if counts:
            found[list(counts)] = torch.tensor([*counts.values()], dtype=torch.float64)
        return found


def _runs(row: Sequence[int]) -> Iterable[tuple[int, ...]]:
    return zip(*(row[i:] for i in range(APART)), strict=False)
