"""Prompts as a task writes them, checked on the tokenizer at hand: what fails is drawn again, and the set says how many did."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from residscope.engine.model import Model
from residscope.errors import TooFewPrompts, TooFewWords, UnknownToken
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.tasks.spans import Located, locate, single_tokens

TRIES = 60  # draws of one prompt before the task gives up
UNEQUAL, SPLIT, UNPLACED = "unequal token counts", "an answer is not one token here", "a position is not a token's end"


@dataclass(frozen=True)
class Draft:
    """A prompt and its partner. answers: (right, wrong), as they follow the text. marks: of each named position, how many
    characters of the text stand before its end; END is added."""

    text: str
    partner: str
    answers: tuple[str, str]
    labels: Mapping[str, object]
    marks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A draft that holds on a tokenizer."""

    ids: tuple[int, ...]
    partner: tuple[int, ...]
    at: Mapping[str, int]


def check(model: Model, draft: Draft) -> Row | str:
    """The draft as tokens, or what is wrong with it on this tokenizer.

    It holds where each answer is one token behind the prompt and behind its partner, whose own tokens it leaves as they are; the
    partner has as many tokens as the prompt and is another one; and each named position ends a token. Raises NoTokenizer.
    """
    own, other = locate(model, draft.text), locate(model, draft.partner)
    if len(own.ids) != len(other.ids) or own.ids == other.ids:
        return UNEQUAL
    if draft.answers[0] == draft.answers[1] or not all(
        _follows(model, text, located, answer)
        for text, located in ((draft.text, own), (draft.partner, other))
        for answer in draft.answers
    ):
        return SPLIT
    at = {name: _ending(own, end) for name, end in draft.marks.items()} | {"END": len(own.ids) - 1}
    placed = {name: index for name, index in at.items() if index is not None}
    return Row(own.ids, other.ids, placed) if len(placed) == len(at) else UNPLACED


def drawn_prompts(
    model: Model,
    n: int,
    draw: Callable[[int], Draft],
    *,
    name: str,
    left_out: tuple[str, ...] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> PromptSet:
    """n prompts of a task, each drawn until it holds on this tokenizer (`check`); `draw` takes the prompt's number.

    left_out: what else the set says that it lacks. Raises TooFewPrompts (under two, or one that never holds), NoTokenizer,
    Cancelled.
    """
    two_or_more(n, name)
    kept: list[tuple[Draft, Row]] = []
    failed: Counter[str] = Counter()
    with stage("Writing prompts", n, progress, cancel) as tell:
        for i in range(n):
            for _ in range(TRIES):
                draft = draw(i)
                row = check(model, draft)
                if isinstance(row, Row):
                    kept.append((draft, row))
                    break
                failed[row] += 1
            else:
                raise TooFewPrompts(
                    f"this tokenizer leaves no {name}",
                    received=", ".join(f"{count} drawn: {why}" for why, count in failed.items()),
                    allowed="answers of one token, and partners of as many tokens as their prompts",
                    fix="give your own prompts with rs.tasks.from_file",
                    on_page="choose another task, or a file of your own prompts",
                )
            tell(i + 1)
    drafts, rows = zip(*kept, strict=True)
    named = dict.fromkeys(position for row in rows for position in row.at)
    dropped = tuple(f"{count} drawn prompts ({why})" for why, count in failed.items())
    return PromptSet(
        prompts=tuple(row.ids for row in rows),
        corrupted=tuple(row.partner for row in rows),
        texts=tuple(draft.text for draft in drafts),
        answers=tuple(draft.answers for draft in drafts),
        labels={label: tuple(draft.labels[label] for draft in drafts) for label in drafts[0].labels},
        positions={position: tuple(row.at.get(position) for row in rows) for position in named},
        name=name,
        left_out=left_out + dropped,
    )


class Lists:
    """The words of lists that are one token behind a space, and in `left_out` how many of each are not."""

    def __init__(self, model: Model) -> None:
        self.model, self.left_out = model, tuple[str, ...]()

    def take(self, words: tuple[str, ...], *, least: int, what: str) -> tuple[str, ...]:
        """Those of one token. Raises TooFewWords where under `least` are."""
        kept = single_tokens(self.model, words, least=least, what=what)
        if len(kept) < len(words):
            self.left_out += (f"{len(words) - len(kept)} of {len(words)} {what} (several tokens here)",)
        return kept

    def pairs(self, pairs: Mapping[str, str], *, least: int, what: str) -> dict[str, str]:
        """Those of which both words are one token. Raises TooFewWords where under `least` are."""
        whole = {*self._whole((*pairs, *pairs.values()), what)}
        kept = {key: value for key, value in pairs.items() if key in whole and value in whole}
        if len(kept) < least:
            raise TooFewWords(
                f"this tokenizer splits too many of the {what}",
                received=f"{len(kept)} of {len(pairs)} are of one token each",
                allowed=f"at least {least}",
                fix="give your own prompts with rs.tasks.from_file",
                on_page="choose a file of your own prompts",
            )
        if len(kept) < len(pairs):
            self.left_out += (f"{len(pairs) - len(kept)} of {len(pairs)} {what} (several tokens here)",)
        return kept

    def _whole(self, words: tuple[str, ...], what: str) -> tuple[str, ...]:
        return single_tokens(self.model, tuple(dict.fromkeys(words)), least=0, what=what)


def fill(template: str, words: Mapping[str, str]) -> tuple[str, dict[str, int]]:
    """A template with its slots filled, and where each slot's last occurrence ends.

    >>> fill("{A} and {B}", {"A": "Mary", "B": "John"})
    ('Mary and John', {'A': 4, 'B': 13})
    """
    text, ends = "", dict[str, int]()
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        text += literal + (words[slot] if slot else "")
        ends |= {slot: len(text)} if slot else {}
    return text, ends


def two_or_more(n: int, name: str) -> None:
    """Raises TooFewPrompts."""
    if n < 2:
        raise TooFewPrompts(f"{name} come in more than one kind", received=f"n={n}", allowed="2 or more")


def _follows(model: Model, text: str, located: Located, answer: str) -> bool:
    """Whether an answer is one token by itself and goes on from a text as that one token."""
    try:
        id = model.token_id(answer)
    except UnknownToken:
        return False
    return tuple(model.encode(text + answer)) == (*located.ids, id)


def _ending(located: Located, end: int) -> int | None:
    """The token that ends at a character; None where one runs over it."""
    index = located.last(end)
    return index if index is not None and located.spans[index][1] == end else None
