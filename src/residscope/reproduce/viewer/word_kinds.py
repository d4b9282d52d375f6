"""Kinds of words by rule: auxiliary verbs, and names inside a sentence."""

import re
from collections.abc import Sequence

from residscope.tasks.spans import words

AUXILIARY, NAME, OTHER = "auxiliary", "name", "other"
AUXILIARIES = words(
    """
    is are was were be been has have had does did can could will would shall should may might must
    """
)
COMMON = words(
    """
    a also an and any are as at be but by each false first for from has have he how i if in is it its last let more most new
    next no none not note of on one only or other same see she so some such that the their then there these they this those to
    true type types use was we what when where which while who why will with you your
    """
)
_CAPITALISED = re.compile(r" [A-Z][a-z]+")
_ENDS = re.compile(r"[.!?:;\n\"'`(\[{>*=|-]$")


def kind(token: str, before: str, after: str = "") -> str:
    """What a token is, from its text and those of its neighbours.

    An auxiliary verb, by list; a name: a capitalised word inside a sentence that is no common word; or other. A token that
    the next one goes on with is a part of a word, and other.

    >>> [kind(" should", " you"), kind(" London", " in"), kind(" The", "."), kind(" The", " of"), kind(" Un", " a", "icode")]
    ['auxiliary', 'name', 'other', 'other', 'other']
    """
    if not token.startswith(" ") or after[:1].isalnum() or after[:1] == "_":
        return OTHER
    if token[1:] in AUXILIARIES:
        return AUXILIARY
    inside = bool(before.strip()) and not _ENDS.search(before.rstrip(" "))
    return NAME if inside and _CAPITALISED.fullmatch(token) and token[1:].lower() not in COMMON else OTHER


def kinds(tokens: Sequence[str]) -> list[str]:
    """The kind of each token of one text; other for the first, which has none before it."""
    around = zip(tokens, tokens[1:], [*tokens[2:], ""], strict=False)
    return [OTHER, *(kind(token, before, after) for before, token, after in around)]
