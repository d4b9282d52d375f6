"""Held-out contexts with a direction's value at one token of each, spread over the whole range of values."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.text import BUILT_IN, Source, texts
from residscope.declare.methods import Method
from residscope.directions import Direction
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.engine.sinks import kept, streams
from residscope.errors import NoOrder, NotOneVector, TooFewContexts, WrongWidth
from residscope.once import once
from residscope.progress import Cancel, Progress, Tell, stage

FIRST = 4  # tokens before the one asked about, at least
ROWS_AT_ONCE = 16
LETTERS = 5  # characters a token is worth, generously
SHOWN = 20_000  # tokens at the beginning of a text, which evidence and usual fits read


@dataclass(frozen=True)
class Context:
    """A few tokens of text, as the model read them, and the direction's coordinate at `tokens[pos]`."""

    tokens: tuple[str, ...]
    pos: int
    value: float


def contexts(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    *,
    source: Annotated[Source, fields.text()] = "python-docs",
    n: int = 16,
    length: int = 16,
    seed: Annotated[int, fields.seed()] = 0,
    candidates: int = 64,
    avoid: Collection[str] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> tuple[Context, ...]:
    """n contexts in a random order: one of each n-th part of the values that the direction takes on `candidates` short texts.

    Each is run by itself, so that who sees the tokens sees all that the model saw. Left out is the beginning of the text, which
    evidence is gathered on, as much of it as the direction was fitted on, and what occurs in `avoid`; where too little would be
    left, only the last. The first tokens of a context and attention sinks are not asked about.

    Raises:
        NotOneVector: its site has no one vector a token. WrongWidth. TooFewContexts: the text is too short.
        NoOrder: the direction says the same of every token. Cancelled: `cancel` said so.
    """
    _check(model, direction)
    draw = random.Random(seed)
    rows: list[Row] = []
    with stage("Drawing contexts", candidates, progress, cancel) as tell:
        held_out = _held_out(source, direction, candidates * length, model)
        for row in _rows(model, held_out, length=length, draw=draw, avoid=avoid, tell=tell):
            rows.append(row)
            tell(len(rows))
            if len(rows) == candidates:
                break
    readings: list[Reading] = []
    with stage("Reading contexts", len(rows), progress, cancel) as tell:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            readings += _read(model, direction, rows, start)
            tell(start + ROWS_AT_ONCE)
    if len({row for row, _, _ in readings}) < n:
        raise TooFewContexts(
            "the text gives too few contexts",
            received=f"{len({row for row, _, _ in readings})}",
            allowed=f"{n} or more",
        )
    readings.sort(key=lambda reading: reading[2])
    if readings[0][2] == readings[-1][2]:
        raise NoOrder("the direction says the same of every token", received=f"{readings[0][2]:g} throughout")
    chosen = [
        Context(tuple(model.token_texts(rows[row][1])), pos, value) for row, pos, value in _strata(readings, n, draw)
    ]
    draw.shuffle(chosen)
    return tuple(chosen)


Row = tuple[list[int], list[int]]  # what the model reads, and the same without BOS
Reading = tuple[int, int, float]  # row, position without BOS, value


def _check(model: Model, direction: Direction) -> None:
    site = model.sites.parse(direction.site)
    axes = site.kind.axes
    heads = len(axes) == 4
    if axes[:2] != ("batch", "pos") or len(axes) not in (3, 4) or heads != (direction.head is not None):
        raise NotOneVector(
            "the direction reads a site without one vector a token",
            received=f"{direction.place}: {site.kind.dims}",
            allowed="the stream, attn_out, mlp_out, mlp_post, or one head of z or result",
        )
    if heads:
        model.sites.check_index(site, axes[2], (direction.head or 0,))
    if model.sites.width(site) != len(direction.read):
        raise WrongWidth(
            f"{direction.name} does not fit {site}",
            received=len(direction.read),
            allowed=str(model.sites.width(site)),
        )


def _held_out(source: Source, direction: Direction, tokens: int, model: Model | None = None) -> list[str]:
    """The texts behind those that the direction was fitted on or its evidence gathered; all where too little is left."""
    every = _built_in(source) if isinstance(source, str) and source in BUILT_IN else list(texts(source, model))
    read = LETTERS * max(_read_of(source, direction.provenance), SHOWN)
    left, skipped = sum(map(len, every)), 0
    for i, text in enumerate(every):
        if skipped >= read:
            return every[i:] if left > 4 * LETTERS * tokens else every
        skipped, left = skipped + len(text), left - len(text)
    return every


CONTEXTS = Method("blind-contexts", "Contexts for a blind test", contexts, "evidence")
"""Declared for a session's jobs, and not among the methods that there are to ask for: its values are to stay unseen."""


@once
def _built_in(source: str) -> list[str]:
    return list(texts(source))


def _read_of(source: Source, provenance: Mapping[str, Any]) -> int:
    """How many tokens of a text a direction, or any part of a mix, was fitted on."""
    read, parts = 0, [provenance]
    while parts:
        part = parts.pop()
        tokens, summed = part.get("tokens"), part.get("sum")
        if isinstance(tokens, int) and isinstance(source, str) and source in str(part.get("corpus")):
            read = max(read, tokens)
        within = [part.get("of"), *(summed if isinstance(summed, list | tuple) else ())]
        parts += [value for value in within if isinstance(value, Mapping)]
    return read


def _rows(
    model: Model, held_out: Sequence[str], *, length: int, draw: random.Random, avoid: Collection[str], tell: Tell
) -> Iterator[Row]:
    """Short readable pieces from anywhere in the texts, in a random order, each once."""
    order = [i for i in range(len(held_out)) if len(held_out[i]) > LETTERS * length]
    taken: set[tuple[int, ...]] = set()
    for _ in range(3):
        draw.shuffle(order)
        for i in order:
            tell()
            text = held_out[i]
            start = draw.randrange(max(1, len(text) - 2 * LETTERS * length))
            space = text.find(" ", start)
            piece = text[max(0, space) : max(0, space) + 4 * LETTERS * length]
            ids, _ = encoding.read(model, piece)
            begins = int(model.bos)
            shown = ids[begins : begins + length]
            if len(shown) < length or tuple(shown) in taken or not _readable(model, shown):
                continue
            words = model.text(shown).strip()
            if any(words in other or other.strip() in words for other in avoid if other.strip()):
                continue
            taken.add(tuple(shown))
            yield ids[:begins] + shown, shown


def _readable(model: Model, ids: Sequence[int]) -> bool:
    """Prose rather than tables and rules: most tokens have a letter, none is half a character."""
    lettered = sum(any(map(str.isalpha, text)) for text in model.token_texts(ids))
    return lettered >= 0.6 * len(ids) and "bytes" not in model.token_kinds(ids)


def _read(model: Model, direction: Direction, rows: Sequence[Row], start: int) -> Iterator[Reading]:
    batch = rows[start : start + ROWS_AT_ONCE]
    record = model.run([ids for ids, _ in batch], [direction.site, *streams(model, direction.site)])
    x: Float[Tensor, "batch pos ..."] = record[direction.site]
    if direction.head is not None:
        x = x[:, :, direction.head]
    values = direction.project(x, model=model)
    usable = kept(record, direction.site)
    for i, (ids, shown) in enumerate(batch):
        begins = len(ids) - len(shown)
        for pos in range(FIRST, len(shown)):
            if bool(usable[i, begins + pos]):
                yield start + i, pos, float(values[i, begins + pos])


def _strata(readings: Sequence[Reading], n: int, draw: random.Random) -> Iterator[Reading]:
    """One of each n-th part of the sorted values, from rows of their own while there are any; the ends first."""
    bounds = [round(k * len(readings) / n) for k in range(n + 1)]
    used: set[int] = set()
    for k in sorted(range(n), key=lambda k: -abs(2 * k + 1 - n)):
        part = list(readings[bounds[k] : bounds[k + 1]])
        fresh = [reading for reading in part if reading[0] not in used] or part
        reading = draw.choice(fresh)
        used.add(reading[0])
        yield reading
