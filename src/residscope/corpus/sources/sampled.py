"""Text that a model writes itself: English with nothing to fetch, and in its own distribution."""

from collections.abc import Iterator
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from residscope.corpus.sources.documents import Document
from residscope.corpus.sources.separators import document_start, endings
from residscope.engine.model import Model
from residscope.errors import CorpusError, NoTokenizer
from residscope.progress import Tell

ROWS = 16  # written together
LENGTH = 256  # tokens of a document at most
TOKENS = 20_000


_lock = RLock()
_written: "WeakKeyDictionary[Model, tuple[Any, list[list[Document]]]]" = WeakKeyDictionary()  # of each model the latest


class Sampled:
    """Documents that a model wrote: drawn once, kept while the model lives, and drawn anew where its weights have changed.

    See `sampled_text`.
    """

    def __init__(self, model: Model, tokens: int, seed: int, temperature: float) -> None:
        self.model, self.tokens, self.seed, self.temperature = model, tokens, seed, temperature
        if model.tokenizer is None:
            raise NoTokenizer("this model came without a tokenizer", allowed="a model that writes text")
        start = document_start(model)
        if start is None:
            raise CorpusError(
                "nothing says where a text begins: the tokenizer has no BOS and no end of text", received=model.name
            )
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise CorpusError("no tokens to write", received=f"tokens={tokens!r}", allowed="1 or more")
        self._start = start

    @property
    def name(self) -> str:
        """What draws this very text again from the same model."""
        return f"model?tokens={self.tokens}&seed={self.seed}&temperature={self.temperature:g}"

    def key(self) -> str:
        """What says that it is the same text: what it is drawn by, and the weights."""
        how = (self.tokens, self.seed, self.temperature, ROWS, LENGTH, str(self.model.device), str(self.model.dtype))
        return f"sampled {how} {torch.__version__} {self.model.fingerprint()}"

    def __iter__(self) -> Iterator[str]:
        return (document.text for document in self.documents())

    def documents(self, tell: Tell = lambda: None) -> Iterator[Document]:
        """Until there are `tokens` tokens; `tell` is asked before each token of a batch."""
        given = batch = 0
        while given < self.tokens:
            for document in self._batch(batch, tell):
                yield document
                given += len(document.ids or ())
                if given >= self.tokens:
                    return
            batch += 1

    def _batch(self, number: int, tell: Tell) -> list[Document]:
        form = (self.seed, self.temperature, ROWS, LENGTH, self.model.weights_version())
        with _lock:
            written = _written.get(self.model)
            if written is None or written[0] != form:
                written = _written[self.model] = (form, [])
            while len(written[1]) <= number:
                written[1].append(self._drawn(len(written[1]), tell))
            return written[1][number]

    def _drawn(self, number: int, tell: Tell) -> list[Document]:
        new = min(LENGTH, self.model.context) - 1
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint32)[0])
        starts = [[self._start]] * ROWS
        stop = endings(self.model)
        written = self.model.generate(starts, (), new, temperature=self.temperature, seed=seed, stop=stop)
        for token in written:
            if token.row == 0:
                tell()
        ids = [(self._start, *row.ids) for row in written.rows]
        return [Document(self.model.text(row), ids=row) for row in ids if len(row) > 1]


def sampled_text(model: Model, tokens: int = TOKENS, *, seed: int = 0, temperature: float = 1.0) -> Sampled:
    """Text that the model writes: a corpus of so many tokens, the same for the same weights and seed.

    Each document begins with the model's BOS, or with the token that ends documents, and is drawn from

        softmax(logits / temperature)

    token by token, 16 documents together, until its end or 256 tokens. A temperature of 1 is the model's own distribution.

        rs.pca(model, rs.sampled_text(model, 20_000), "resid_post.6")

    `"model"` says the same in one word, and `"model?tokens=50000&seed=1&temperature=0.8"` with numbers.

    Raises:
        NoTokenizer; CorpusError: nothing to begin with, or no tokens. BadSampling: no such temperature, when it is read.
    """
    return Sampled(model, tokens, seed, float(temperature))
