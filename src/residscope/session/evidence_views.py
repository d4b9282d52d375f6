"""Evidence as the JSON of docs/wire.md."""

import math
from typing import Any

from residscope.corpus.examples import Example, Examples
from residscope.methods._lib.badges import Badge
from residscope.methods.evidence import Evidence
from residscope.views import View


def describe_evidence(found: Evidence) -> dict[str, Any]:
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


def _badge(badge: Badge) -> dict[str, Any]:
    numbers = {name: _number(value) if isinstance(value, float) else value for name, value in badge.numbers.items()}
    return {
        "claim": badge.claim,
        "shown": badge.shown,
        "said": badge.said,
        "sentence": badge.sentence,
        "numbers": numbers,
    }


def _tokens(found: tuple[tuple[int, str, float], ...]) -> list[dict[str, Any]]:
    return [{"text": text, "value": value} for _, text, value in found]


def _views(views: list[Any]) -> list[dict[str, Any]]:
    return [view.to_dict() for view in views if isinstance(view, View)]


def _examples(found: Examples) -> dict[str, Any]:
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


def _example(e: Example) -> dict[str, Any]:
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
