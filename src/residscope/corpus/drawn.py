"""Prompts drawn from a text: windows that begin where a sentence does."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Annotated

from residscope import fields
from residscope.corpus.text import Source, called, opened, texts
from residscope.declare.methods import method
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.errors import EmptyCorpus
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, Tell, stage

POOL = 4_000_000  # characters: of a longer text, windows come from its beginning
WIDEST_TOKEN = 16  # characters a token takes at most, on the average over a window
LEAST = 4  # tokens of a prompt worth showing, where the text has no longer ones
STARTS = (
    re.compile(r"(?:\A|(?<=\n\n)|(?<=[.!?]\s)|(?<=[.!?]\s\s))(?=\S)"),
    re.compile(r"(?<=\n)(?=\S)"),
)  # sentences, lines
Window = tuple[str, tuple[int, ...]]


@method("draw-prompts", title="Draw prompts from a text", group="prompts")
def draw_prompts(
    model: Model,
    text: Annotated[Source, fields.text()],
    n: Annotated[int, fields.count(low=1, high=2000)] = 24,
    *,
    length: Annotated[int, fields.count(low=4, high=4096)] = 40,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> PromptSet:
    """n windows of a text, `length` tokens each; the same for the same seed.

    A window begins where a sentence does, or else a line; it runs over no other window, and its text, when typed, reads as
    the same tokens, so that it holds no character that the tokenizer drops. A text without n of that length gives shorter
    ones (4 tokens and more), and perhaps fewer.

    Raises:
        EmptyCorpus: not one. CorpusError: the text cannot be used. Cancelled: `cancel` said so.
    """
    chance = random.Random(seed)
    length = min(length, model.context)
    drawn: dict[tuple[int, int], Window] = {}
    with stage("Drawing prompts", n, progress, cancel) as tell:
        pool = list(_pool(texts(text, model), tell))
        for least, start in product((length, LEAST), STARTS):
            places = [(i, match.start()) for i, part in enumerate(pool) for match in start.finditer(part)]
            chance.shuffle(places)
            for place in places:
                if len(drawn) == n:
                    break
                if not _overlaps(place, drawn) and (window := _window(model, pool, place, length, least)):
                    drawn[place] = window
                tell(len(drawn))
    if not drawn:
        raise EmptyCorpus(f"the text gave no prompt of {LEAST} tokens or more", fix="give longer texts")
    windows = drawn.values()
    return PromptSet(
        tuple(ids for _, ids in windows), texts=tuple(words for words, _ in windows), name=called(opened(text, model))
    )


def _pool(parts: Iterable[str], tell: Tell) -> Iterator[str]:
    left = POOL
    for text in parts:
        tell()
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _overlaps(place: tuple[int, int], drawn: dict[tuple[int, int], Window]) -> bool:
    i, at = place
    return any(
        i == j and at < start + len(words) and start < at + len(words) for (j, start), (words, _) in drawn.items()
    )


def _window(model: Model, pool: Sequence[str], place: tuple[int, int], length: int, least: int) -> Window | None:
    """The window that begins at a place of the text, if it is long enough and types as the same tokens."""
    i, at = place
    piece = pool[i][at : at + WIDEST_TOKEN * length]
    ids, unread = encoding.read(model, piece)
    while unread:  # what has no token may stand behind the window
        piece = piece[: len(piece) // 2]
        ids, unread = encoding.read(model, piece)
    ids = ids[:length]
    if len(ids) < least:
        return None
    text = model.text(ids)
    if not text.strip() or model.tokens(text)[0].tolist() != ids:
        return None
    return text, tuple(ids)
