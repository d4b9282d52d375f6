"""What a method gave: the items in it, what is to be said of them, and its failure in words."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from residscope.errors import BadResult, ErrorBody, ResidscopeError, explain
from residscope.items import Item
from residscope.reports import Record, Report
from residscope.results import Result


def explained(failure: BaseException) -> ErrorBody:
    """Any failure in words, also one that is silent or fails to say what it is."""
    try:
        if isinstance(failure, ResidscopeError):
            return explain(failure)
        words = str(failure)
    except Exception:
        words = ""
    said = f"{type(failure).__name__}: {words}" if words else f"{type(failure).__name__}, without a word why"
    return ResidscopeError(f"the method failed ({said.rstrip('.')})", fix="please report this").to_dict()


def parts_of(made: Any) -> dict[str, Item]:
    """The items in what a method gave, each by what tells it apart. Raises BadResult where it gave something else."""
    if made is None:
        return {}
    if isinstance(made, Item):
        return {"": made}
    parts: dict[str, Any] = {"": made}
    if isinstance(made, Mapping):
        parts = {str(key): part for key, part in made.items()}
    elif isinstance(made, tuple | list):
        parts = {str(i): part for i, part in enumerate(made, 1)}
    strange = [part for part in parts.values() if not isinstance(part, Item)]
    if strange:
        raise BadResult(
            "the method gave nothing that can be kept",
            received=f"{type(strange[0]).__module__}.{type(strange[0]).__qualname__}",
            allowed="results, reports, directions, dictionaries, probes, recordings, prompts, generations; or several of them",
        )
    return parts


def wanting(made: Any) -> str:
    """What is to be said of numbers that are none; empty where all are."""
    missing, of = 0, 0
    for values in _numbers(made):
        if values.is_floating_point() or values.is_complex():
            missing, of = missing + int((~torch.isfinite(values)).sum()), of + values.numel()
    missing -= made.blanks if isinstance(made, Report) else 0
    return f"{missing} of its {of} values are no numbers (NaN or infinite)." if missing else ""


def _numbers(made: Any) -> Iterator[Tensor]:
    """The values of the results in it. (Directions and dictionaries refuse such numbers themselves.)"""
    if isinstance(made, Result):
        yield made.values
    elif isinstance(made, Record):
        yield from (x for f in fields(made) for x in _numbers(getattr(made, f.name)))  # type: ignore[arg-type]
    elif isinstance(made, Mapping):
        yield from (x for part in made.values() for x in _numbers(part))
    elif isinstance(made, tuple | list):
        yield from (x for part in made for x in _numbers(part))
