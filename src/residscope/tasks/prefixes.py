"""Prefix sentences: plain sentences from any text, with no names in them, so that prompts are less alike."""

import random
import re
from collections.abc import Collection, Iterator

from residscope.corpus.text import Source, texts
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.errors import TooFewWords
from residscope.progress import Cancel, Progress, stage

PLAIN = re.compile(r"[A-Z][a-z]*(?:,? [a-z][a-z'-]*)+[.]")
ENOUGH = 1000


def prefixes(
    model: Model,
    source: Source,
    n: int,
    *,
    drawn: random.Random,
    names: Collection[str] = (),
    longest: int = 50,
    progress: Progress = None,
    cancel: Cancel = None,
) -> list[str]:
    """n sentences drawn from a text: of at most `longest` tokens, and with no capital after the first letter, nor a name.

    Raises:
        TooFewWords: the text has no such sentence. CorpusError: it cannot be read. Cancelled: `cancel` said so.
    """
    known = {name.lower() for name in names}
    found: dict[str, None] = {}
    with stage("Finding sentences", ENOUGH, progress, cancel) as tell:
        for sentence in _sentences(source, model):
            words = re.findall(r"[a-z]+", sentence.lower())
            if PLAIN.fullmatch(sentence) and len(words) >= 5 and not known.intersection(words):
                ids, unread = encoding.read(model, sentence, bos=False)
                if len(ids) <= longest and not unread:
                    found[sentence] = None
                if len(found) == ENOUGH:
                    break
            tell(len(found))
    if not found:
        raise TooFewWords(
            "the text has no usable sentence",
            received=str(source)[:80],
            allowed=f"sentences of 5 words or more and at most {longest} tokens, without names or other capitals",
            fix="give another text=, or prefixes=False",
        )
    return drawn.choices(list(found), k=n)


def _sentences(source: Source, model: Model) -> Iterator[str]:
    for text in texts(source, model):
        yield from re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text).strip())
