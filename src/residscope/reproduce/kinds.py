"""Kinds of words by rule: auxiliary verbs, and names inside a sentence."""

import re
from collections.abc import Sequence

AUXILIARIES = tuple(
    "is are was were be been has have had does did can could will would shall should may might must".split()
)
AUXILIARY, NAME, OTHER = "auxiliary", "name", "other"
_COMMON = frozenset(
    "a an and any are as at be but by each for from has have he how i if in is it its let no none not of on one or see she so "
    "some that the their then there these they this those to true false use was we what when where which while who why will "
    "with you your note also other only same such first last new most more type types".split()
)
_CAPITALISED = re.compile(r" [A-Z][a-z]+")
_ENDS = re.compile(r"[.!?:;\n\"'`(\[{>*=|-]$")


def kind(token: str, before: str) -> str:
    """What a token is, from its text and that of the token before it.

    An auxiliary verb, by list; a name: a capitalised word inside a sentence that is no common word; or other.

    >>> [kind(" should", " you"), kind(" London", " in"), kind(" The", "."), kind(" The", " of")]
    ['auxiliary', 'name', 'other', 'other']
    """
    if not token.startswith(" "):
        return OTHER
    if token[1:] in AUXILIARIES:
        return AUXILIARY
    inside = bool(before.strip()) and not _ENDS.search(before.rstrip(" "))
    return NAME if inside and _CAPITALISED.fullmatch(token) and token[1:].lower() not in _COMMON else OTHER


def kinds(tokens: Sequence[str]) -> list[str]:
    """The kind of each token of one text, but of the first, which has none before it."""
    return [OTHER, *(kind(token, before) for before, token in zip(tokens, tokens[1:], strict=False))]
