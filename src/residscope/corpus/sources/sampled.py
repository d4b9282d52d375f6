"""Text that a model writes itself: English with nothing to fetch, and in its own distribution."""

from collections.abc import Iterator
from threading import RLock

import numpy as np

from residscope.corpus.sources.documents import Document
from residscope.corpus.sources.separators import document_start
from residscope.engine.model import Model
from residscope.errors import CorpusError, NoTokenizer
from residscope.progress import Tell

ROWS = 16  # written together
LENGTH = 256  # tokens of a document at most
TOKENS = 20_000


class Sampled:
    """Documents that a model wrote: drawn once, kept while this lives, and drawn anew where the weights have changed.

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
        self._lock, self._of = RLock(), model.weights_version()
        self._batches: list[list[Document]] = []

    @property
    def name(self) -> str:
        """What draws this very text again from the same model."""
        return f"model?tokens={self.tokens}&seed={self.seed}&temperature={self.temperature:g}"

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
        with self._lock:
            if (now := self.model.weights_version()) != self._of:
                self._of, self._batches = now, []
            while len(self._batches) <= number:
                self._batches.append(self._drawn(len(self._batches), tell))
            return self._batches[number]

    def _drawn(self, number: int, tell: Tell) -> list[Document]:
        new = min(LENGTH, self.model.context) - 1
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint32)[0])
        starts = [[self._start]] * ROWS
        written = self.model.generate(starts, (), new, temperature=self.temperature, seed=seed)
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
