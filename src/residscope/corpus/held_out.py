"""Held-out prompts: windows of a text from beyond everything that was fitted or looked at."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from residscope.corpus.text import BUILT_IN, Source, called, texts
from residscope.engine.model import Model
from residscope.errors import TextTooShort
from residscope.progress import Cancel, Progress, Tell, stage

SPREAD = 40  # windows to choose among, for each one chosen


@dataclass(frozen=True)
class HeldOut:
    """Prompts of one length, and where they are from, in words."""

    prompts: tuple[tuple[int, ...], ...]
    origin: str

    def __len__(self) -> int:
        return len(self.prompts)


def held_out(
    model: Model,
    corpus: Source,
    *,
    skip: int,
    n: int = 12,
    length: int = 20,
    seed: int = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> HeldOut:
    """n windows of `length` tokens, drawn at random from the text beyond its first `skip` tokens.

    Where so much is not left, they are drawn from the built-in text instead, and `origin` says so.

    Raises:
        TextTooShort: the built-in text is not long enough either. Cancelled: `cancel` said so.
    """
    length = min(length, model.context)
    most = n * SPREAD
    with stage("Looking for held-out text", skip + most * length, progress, cancel) as tell:
        found = list(_windows(model, corpus, skip, most, length, tell))
    name = called(corpus)
    origin = f"{name}, beyond its first {skip:,} tokens"
    if len(found) < n and name not in BUILT_IN:
        with stage(f"Looking for held-out text in {BUILT_IN[0]}", skip + most * length, progress, cancel) as tell:
            found = list(_windows(model, BUILT_IN[0], skip, most, length, tell))
        origin = f"{BUILT_IN[0]}, beyond its first {skip:,} tokens, since {name} has too few left"
    if len(found) < n:
        raise TextTooShort(
            "too little of the text is left that was not fitted or looked at",
            received=f"{len(found)} windows of {length} tokens beyond the first {skip:,}",
            allowed=f"{n} or more",
            fix="look at fewer tokens, or give a longer text",
        )
    return HeldOut(tuple(random.Random(seed).sample(found, n)), origin)


def _windows(model: Model, corpus: Source, skip: int, most: int, length: int, tell: Tell) -> Iterator[tuple[int, ...]]:
    """Whole windows of each text's tokens, in order, once `skip` tokens have gone by."""
    gone = given = 0
    for text in texts(corpus):
        ids = model._encode(text, None)
        for start in range(max(0, skip - gone), len(ids) - length + 1, length):
            yield tuple(ids[start : start + length])
            given += 1
            if given == most:
                return
        gone += len(ids)
        tell(gone)
