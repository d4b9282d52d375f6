"""Where words stand: character spans of a text as token indices, checked by decoding."""

import re
from dataclasses import dataclass

from residscope.engine.model import Model
from residscope.errors import NoTokenizer, TooFewWords, UnknownToken


@dataclass(frozen=True)
class Located:
    """A text's token ids (BOS where the model's habit adds it) and each token's characters, (start, end)."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def last(self, end: int) -> int | None:
        """The token that holds the character before `end`: the last token of what ends there. None where there is none."""
        return next((i for i, (a, b) in enumerate(self.spans) if a < end <= b), None)


def locate(model: Model, text: str) -> Located:
    """Tokenize a text and keep where each token stands in it. Raises NoTokenizer; BadPrompt as `Model.encode`."""
    if model.tokenizer is None or not getattr(model.tokenizer, "is_fast", False):
        raise NoTokenizer(
            "words cannot be found again in the tokens",
            received="no tokenizer" if model.tokenizer is None else type(model.tokenizer).__name__,
            allowed="a fast tokenizer, which says where each token stands in the text",
        )
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = model.encode(text), [(int(a), int(b)) for a, b in found["offset_mapping"]]
    spans = [(0, 0)] * (len(ids) - len(spans)) + spans  # BOS, where it was put in front
    return Located(tuple(ids), tuple(spans))


def filled(template: str, text: str) -> dict[str, tuple[str, int]] | None:
    """What stands in each slot of a template in a text that ends with it, and where it ends; None where none does.

    A slot is one word, and the same one wherever its name comes again. Whole sentences may stand before.

    >>> filled("{A} and {B}: {A}", "Yes. Mary and John: Mary")
    {'A': ('Mary', 9), 'B': ('John', 18)}
    >>> filled("{A} and {B}: {A}", "Mary and John: John")
    """
    pattern, known = "(?:.*\\S )?", set[str]()
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        pattern += re.escape(literal) + ("" if not slot else f"(?P={slot})" if slot in known else rf"(?P<{slot}>\w+)")
        known.add(slot)
    found = re.fullmatch(pattern, text, re.DOTALL)
    return None if found is None else {slot: (word, found.end(slot)) for slot, word in found.groupdict().items()}


def single_tokens(model: Model, words: tuple[str, ...], *, least: int, what: str) -> tuple[str, ...]:
    """Those of the words that are one token after a space. Raises TooFewWords where under `least` are."""
    kept = tuple(word for word in words if _is_one(model, f" {word}"))
    if len(kept) < least:
        raise TooFewWords(
            f"this tokenizer splits too many of the {what}",
            received=f"{len(kept)} of {len(words)} are one token",
            allowed=f"at least {least}",
            fix="give your own prompts with rs.tasks.from_file",
            on_page="choose a file of your own prompts",
        )
    return kept


def _is_one(model: Model, text: str) -> bool:
    """Whether a text is one token in the middle of another."""
    try:
        return bool(model.token_texts([model.token_id(text)]) == [text])
    except UnknownToken:
        return False


def words(text: str) -> tuple[str, ...]:
    """The words of a text, as a list to draw from."""
    return tuple(text.split())
