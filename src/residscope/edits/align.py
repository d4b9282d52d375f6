"""Which position of a source's prompt stands for which of the run's, where the prompts differ in length or wording."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from residscope.errors import BadEdit, CannotAlign, UnknownPosition
from residscope.model.prompts import PromptSet

# "prefix", "suffix", "tokens", {to: from} for every prompt or one such for each, or the run's PromptSet and the source's
WAYS = ("prefix", "suffix", "tokens")
Align = str | Mapping[int, int] | Sequence[Any] | PromptSet | None


def check_align(align: Any) -> None:
    """Refuse what is none of the forms."""
    several = align if isinstance(align, list | tuple) else [align]
    named = isinstance(align, PromptSet) or (len(several) == 2 and all(isinstance(a, PromptSet) for a in several))
    if align is None or named or (isinstance(align, str) and align in WAYS):
        return
    for each in several:
        if not isinstance(each, Mapping) or not all(_is_index(i) for pair in each.items() for i in pair):
            raise BadEdit(
                "no such alignment",
                received=f"align={align!r}"[:120],
                allowed='"prefix", "suffix", "tokens", {to: from}, one such for each prompt, or the run\'s PromptSet',
            )


def by_names(align: Any, source: Any) -> Any:
    """An alignment by named positions as one {to: from} for each prompt; any other as it is.

    Raises:
        CannotAlign: sets that do not correspond. UnknownPosition: a prompt that lacks a position both sets name.
    """
    prompts, sources = align if isinstance(align, tuple | list) and len(align) == 2 else (align, source)
    if not isinstance(prompts, PromptSet):
        return align
    if not isinstance(sources, PromptSet):
        raise CannotAlign(
            "positions are aligned by their names in two prompt sets",
            received=f"a source of type {type(sources).__name__}",
            fix="give the source as a PromptSet, or align=(prompts, sources)",
        )
    names = sorted(prompts.positions.keys() & sources.positions.keys())
    if not names or len(prompts) != len(sources):
        raise CannotAlign(
            "the prompt sets do not correspond",
            received=f"{len(prompts)} prompts naming {sorted(prompts.positions)}, {len(sources)} naming "
            f"{sorted(sources.positions)}",
            allowed="as many prompts, and a position name in common",
        )
    to, taken = (
        {name: _at(each, name, whose) for name in names} for each, whose in ((prompts, "run"), (sources, "source"))
    )
    return tuple({to[name][row]: taken[name][row] for name in names} for row in range(len(prompts)))


def _at(prompts: PromptSet, name: str, whose: str) -> tuple[int, ...]:
    """A named position of each prompt. Raises UnknownPosition where one lacks it, saying whose prompts these are."""
    try:
        return prompts.at(name)
    except UnknownPosition as error:
        raise UnknownPosition(
            f"of the {whose}'s prompts, {error.failed}", received=error.received, allowed=error.allowed, fix=error.fix
        ) from None


def pairs(align: Any, *, prompt: int, to: int, source: int) -> dict[int, int]:
    """{to: from} between a run's prompt of `to` tokens and a source's of `source`. Raises UnknownPosition, CannotAlign."""
    if align == "prefix":
        return {i: i for i in range(min(to, source))}
    if align == "suffix":
        return {to - i: source - i for i in range(1, min(to, source) + 1)}
    if not isinstance(align, Mapping):
        if prompt >= len(align):
            raise CannotAlign(
                "there is no alignment for this prompt",
                received=f"prompt {prompt}",
                allowed=f"an alignment for each prompt: there are {len(align)}",
            )
        align = align[prompt]
    for i, j in align.items():
        if not 0 <= i < to or not 0 <= j < source:
            raise UnknownPosition(
                "the positions to patch are not all there",
                received=f"{i} from {j}",
                allowed=f"0 to {to - 1} from 0 to {source - 1}",
            )
    return dict(align)


def align_tokens(to: Sequence[int], source: Sequence[int]) -> dict[int, int]:
    """{to: from} between two prompts' token ids by the fewest changes that make one of the other: tokens kept and tokens
    exchanged stand for each other, those put in or left out for nothing (Levenshtein's distance, 1966; ties keep positions).

    >>> align_tokens([7, 1, 2, 9], [7, 5, 2, 3, 9])
    {0: 0, 1: 1, 2: 2, 3: 4}
    """
    return dict(_fewest_changes(tuple(to), tuple(source)))


@lru_cache(maxsize=256)  # an edit of every layer asks for one pair of prompts as often
def _fewest_changes(to: tuple[int, ...], source: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    a, b, along = np.asarray(to, dtype=np.int64), np.asarray(source, dtype=np.int64), np.arange(len(source) + 1)
    changes = np.empty((len(a) + 1, len(b) + 1), dtype=np.int32)
    changes[0] = along
    for i, token in enumerate(a):
        row = changes[i] + 1
        row[1:] = np.minimum(row[1:], changes[i, :-1] + (b != token))
        changes[i + 1] = np.minimum.accumulate(row - along) + along
    found: dict[int, int] = {}
    i, j = len(a), len(b)
    while i and j:
        if changes[i, j] == changes[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            found[i] = j
        elif changes[i, j] == changes[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return tuple(reversed(found.items()))


def _is_index(i: Any) -> bool:
    return isinstance(i, int) and not isinstance(i, bool)
