"""A feature's examples in two halves: those that a name is made from, and those that it is tested on, with others beside them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from residscope.corpus.chunks import captured
from residscope.corpus.harvest.statistics.example import AFTER, Example
from residscope.corpus.harvest.statistics.top import BEFORE
from residscope.directions import Dictionary
from residscope.edits.features import joined
from residscope.engine.model import Model
from residscope.engine.sinks import kept
from residscope.features.atlas import Atlas
from residscope.progress import Tell

SHOWN = 12  # examples that a name is made from
ROWS = 96  # of the text, read to find where features are not active
AT_ONCE = 8
PARTS = 3  # windows of a row
WEAK = 0.25  # of the highest value: what counts as active where values are never simply off
Tokens = tuple[str, ...]
T = TypeVar("T")


@dataclass
class Halves:
    """Of one feature: examples that are shown, and as many contexts where it is active as where it is not, of other rows."""

    shown: tuple[Example, ...]
    active: tuple[Tokens, ...]
    inactive: tuple[Tokens, ...] = ()
    rows: frozenset[int] = field(default_factory=frozenset)  # that are shown


def halves(model: Model, atlas: Atlas, index: int, most: int) -> Halves:
    """Its examples, ranked by value, every other row of the text to either half: no row and no context is in both."""
    drawn = [example for *_, several in atlas.drawn.intervals(index, model) for example in several]
    least = threshold(atlas, index)
    every = {(one.row, one.pos): one for one in (*drawn, *atlas.top.of(index, model)) if one.value > least}
    by_row: dict[int, list[Example]] = {}
    for example in sorted(every.values(), key=lambda one: (-one.value, one.row, one.pos)):
        by_row.setdefault(example.row, []).append(example)
    ranked = [*by_row.values()]
    shown = [example for several in ranked[::2] for example in several]
    known = {example.tokens for example in shown}
    held = [one.tokens for several in ranked[1::2] for one in _apart(several) if one.tokens not in known]
    rows = frozenset(by_row)
    return Halves(tuple(spaced(shown, SHOWN)), tuple(spaced([*dict.fromkeys(held)], most)), (), rows)


def _apart(examples: Sequence[Example]) -> list[Example]:
    """Those of one row that share no token, the strongest first."""
    taken: list[Example] = []
    for example in examples:
        if all(abs(example.pos - other.pos) > BEFORE + AFTER for other in taken):
            taken.append(example)
    return taken


def threshold(atlas: Atlas, index: int) -> float:
    """Above which it counts as active: zero for an encoder's, a quarter of its highest for what has values on both sides."""
    return 0.0 if atlas.bottom is None else WEAK * max(float(atlas.highest[index].nan_to_num(0)), 0.0)


def with_inactive(
    model: Model,
    atlas: Atlas,
    dictionary: Dictionary | None,
    found: Mapping[int, Halves],
    *,
    seed: int,
    tell: Tell,
) -> dict[int, Halves]:
    """Each with contexts at none of whose tokens the feature is active, out of one pass over some rows.

    There are as many of either kind, so that whoever says the same of all is right in half.
    """
    draw = random.Random(seed)
    rows = [row for row in range(len(atlas.text.starts)) if len(atlas.text.row(row)) > AFTER + 2]
    chosen = sorted(draw.sample(rows, min(ROWS, len(rows))))
    spots = {row: _spots(len(atlas.text.row(row)), draw) for row in chosen}
    off: dict[int, list[Tokens]] = {index: [] for index in found}
    indices = [*found]
    for start in range(0, len(chosen), AT_ONCE):
        some = chosen[start : start + AT_ONCE]
        record = model.run([atlas.text.row(row) for row in some], captured(model, [atlas.site]))
        x = record[atlas.site]
        x = x if atlas.head is None else x[:, :, atlas.head]
        x = x[..., indices] if dictionary is None else joined(dictionary, x)
        values = x if dictionary is None else dictionary.encode(x, model=model, indices=indices)
        values = values.float().masked_fill(~kept(record, atlas.site)[..., None].to(values.device), 0).cpu()
        for i, row in enumerate(some):
            ids = atlas.text.row(row)
            for first, last in spots[row]:
                highest = values[i, first:last].amax(0).tolist()
                text: Tokens | None = None
                for index, value in zip(indices, highest, strict=True):
                    if value <= threshold(atlas, index) and row not in found[index].rows:
                        text = text or tuple(model.token_texts(ids[first:last]))
                        off[index].append(text)
        tell(min(start + AT_ONCE, len(chosen)))
    made = {}
    for index, half in found.items():
        others = [*dict.fromkeys(off[index])]
        n = min(len(half.active), len(others))
        made[index] = Halves(half.shown, tuple(spaced(half.active, n)), tuple(draw.sample(others, n)), half.rows)
    return made


def rows_read(atlas: Atlas) -> int:
    """How many rows `with_inactive` reads."""
    return min(ROWS, sum(len(atlas.text.row(row)) > AFTER + 2 for row in range(len(atlas.text.starts))))


def _spots(length: int, draw: random.Random) -> list[tuple[int, int]]:
    """Windows of a row, as wide as an example's, one in each part of it."""
    width = BEFORE + 1 + AFTER
    parts = max(1, min(PARTS, length // width))
    found = []
    for part in range(parts):
        low, high = part * length // parts, max(part * length // parts, (part + 1) * length // parts - width)
        first = draw.randint(low, high)
        found.append((first, min(length, first + width)))
    return found


def spaced(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, from the first to the last, evenly."""
    if len(items) <= most:
        return [*items]
    if most < 2:
        return [*items[:most]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
