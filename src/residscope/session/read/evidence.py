"""Evidence as the JSON of docs/wire.md."""

import math
from typing import Annotated, Any, TypedDict

from residscope.corpus import examples
from residscope.methods._lib import badges
from residscope.methods.evidence import evidence
from residscope.views import View
from residscope.views.view import PlainView
from residscope.world.read import Poles, PoleToken


class Badge(TypedDict):
    """A claim, whether it was shown, and the sentence and the numbers that say why or why not."""

    claim: str
    shown: Annotated[bool | None, "Null: not known yet."]
    said: str
    sentence: str
    preliminary: Annotated[str, "What it is of, where more is to come and may change it; empty where it stands."]
    numbers: dict[str, float | str | None]


class Badges(TypedDict):
    correlates: Badge
    used: Badge


class Example(TypedDict):
    """A token of a text, which is untrusted, with what stands around it; values are null where they are left out."""

    row: int
    pos: int
    value: float
    at: int
    tokens: list[str]
    values: list[float | None]


class Interval(TypedDict):
    low: float
    high: float
    n: int
    examples: list[Example]


class Examples(TypedDict):
    top: list[Example]
    bottom: list[Example]
    intervals: list[Interval]
    histogram: PlainView
    limit: Annotated[float, "Where the colour is full."]


class EvidenceParts(TypedDict):
    label: str
    badges: Badges
    tokens: Poles | None
    examples: Examples | None
    null: list[PlainView] | None
    stability: list[PlainView] | None
    dose: list[PlainView] | None
    removal: list[PlainView] | None
    missing: dict[str, str]
    corpus: str | None
    tokens_read: int | None
    held_out: str | None


class Evidence(EvidenceParts):
    """What is known of a direction so far; a part is null until it comes, or for the reason in `missing`."""

    job: str | None
    item: str | None
    revision: int
    done: bool


def describe_evidence(found: evidence.Evidence) -> EvidenceParts:
    """Badges, then each part: null where it is still to come, or where `missing` says why there is none."""
    null, dose, removal, tokens = found.null, found.dose, found.removal, found.tokens
    measured = [] if null is None else [null.histogram("token identity"), null.histogram("position")]
    return {
        "label": found.named,
        "badges": {"correlates": _badge(found.correlates), "used": _badge(found.used)},
        "tokens": None if tokens is None else {"top": _tokens(tokens.top), "bottom": _tokens(tokens.bottom)},
        "examples": None if found.examples is None else _examples(found.examples),
        "null": None if null is None else _views(measured),
        "stability": None if found.stability is None else _views([found.stability.view()]),
        "dose": None if dose is None else _views(dose.curves()),
        "removal": None if removal is None else _views([removal.histogram("KL"), removal.histogram("loss")]),
        "missing": dict(found.missing),
        "corpus": found.provenance.get("corpus"),
        "tokens_read": None if found.examples is None else found.examples.provenance["tokens"],
        "held_out": found.provenance.get("held out"),
    }


def _badge(badge: badges.Badge) -> Badge:
    numbers = {name: _number(value) if isinstance(value, float) else value for name, value in badge.numbers.items()}
    return {
        "claim": badge.claim,
        "shown": badge.shown,
        "said": badge.said,
        "sentence": badge.sentence,
        "preliminary": badge.preliminary,
        "numbers": numbers,
    }


def _tokens(found: tuple[tuple[int, str, float], ...]) -> list[PoleToken]:
    return [{"text": text, "value": value} for _, text, value in found]


def _views(views: list[Any]) -> list[PlainView]:
    return [view.to_dict() for view in views if isinstance(view, View)]


def _examples(found: examples.Examples) -> Examples:
    """`limit`: where the colour is full, the 98.5th percentile of the coordinates' sizes."""
    return {
        "top": [_example(e) for e in found.top],
        "bottom": [_example(e) for e in found.bottom],
        "intervals": [
            {"low": i.low, "high": i.high, "n": i.n, "examples": [_example(e) for e in i.examples]} for i in found.intervals
        ],
        "histogram": found.histogram().to_dict(),
        "limit": float(found.values.abs().float().quantile(0.985)) or 1.0,
    }  # fmt: skip


def _example(e: examples.Example) -> Example:
    return {
        "row": e.row,
        "pos": e.pos,
        "value": e.value,
        "at": e.at,
        "tokens": list(e.tokens),
        "values": [_number(v) for v in e.values],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
