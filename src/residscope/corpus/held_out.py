"""Held-out prompts: windows of a text from beyond everything that was fitted or looked at."""

import random
from contextlib import suppress
from dataclasses import dataclass

from residscope.corpus.reading import UNREAD, Reader
from residscope.corpus.sources.described import Text
from residscope.corpus.text import BUILT_IN, Source, called, opened
from residscope.engine.model import Model
from residscope.errors import EmptyCorpus, TextTooShort
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

    Of a split's training side (`rs.text(..., split="train")`) they come from its other side, all of which was held out.
    Where so much is not left, they are drawn from the built-in text instead, and `origin` says so.

    Raises:
        TextTooShort: the built-in text is not long enough either. Cancelled: `cancel` said so.
    """
    length = min(length, model.context)
    how: dict[str, int] = {"skip": skip, "most": n * SPREAD, "length": length}
    corpus, beyond = opened(corpus, model), f"beyond its first {skip:,} tokens"
    if isinstance(corpus, Text) and corpus.order.split == "train":
        corpus, beyond, how["skip"] = corpus.other_side, "the other side of the split", 0
    name = called(corpus)
    with stage("Looking for held-out text", n * SPREAD, progress, cancel) as tell:
        windows, unread = _windows(Reader(model, corpus), **how, tell=tell)
    origin = f"{name}, {beyond}"
    if len(windows) < n and name not in BUILT_IN:
        with stage(f"Looking for held-out text in {BUILT_IN[0]}", n * SPREAD, progress, cancel) as tell:
            windows, unread = _windows(Reader(model, BUILT_IN[0]), **how | {"skip": skip}, tell=tell)
        origin = f"{BUILT_IN[0]}, beyond its first {skip:,} tokens, since {name} has too few left"
    origin += f", without {unread:,} {UNREAD}" if unread else ""
    if len(windows) < n:
        raise TextTooShort(
            "too little of the text is left that was not fitted or looked at",
            received=f"{len(windows)} windows of {length} tokens beyond the first {skip:,}",
            allowed=f"{n} or more",
            fix="look at fewer tokens, or give a longer text",
        )
    return HeldOut(tuple(random.Random(seed).sample(windows, n)), origin)


def _windows(reader: Reader, *, skip: int, most: int, length: int, tell: Tell) -> tuple[list[tuple[int, ...]], int]:
    """Whole windows of each text's tokens, in order, once `skip` tokens have gone by; and how many characters were not read."""
    windows: list[tuple[int, ...]] = []
    with suppress(EmptyCorpus):
        for row in reader.rows(length=length, tokens=most * length, least=length, skip=skip, tell=tell):
            windows.append(tuple(row.ids))
            tell(len(windows))
    return windows, reader.unread
