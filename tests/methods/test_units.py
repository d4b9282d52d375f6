"""Every result of every method says its unit, and none is named after a class."""

import re
from dataclasses import fields, is_dataclass

import pytest
from bundles import MAKERS

from residscope import Result


def results_in(value):
    """Every result that stands in a value, however deep."""
    if isinstance(value, Result):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from results_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from results_in(part)
    elif is_dataclass(value):
        for f in fields(value):
            yield from results_in(getattr(value, f.name))
        for name, part in vars(type(value)).items():  # and what it works out
            if isinstance(part, property) and not name.startswith("_"):
                yield from results_in(getattr(value, name))


@pytest.mark.parametrize("name", MAKERS)
def test_units_and_names(name):
    found = [*results_in(MAKERS[name]())]
    for result in found:
        assert result.unit, result
        assert not re.search(r"[a-z][A-Z]", result.name), result
        assert result.unit in repr(result)
    assert found or name in (
        "own tokens",
        "model facts",
        "examples",
        "das",
        "flips",
        "score",
        "continuations",
        "token table",
        "counterfactuals",
        "harvest",
        "sae splitting",
        "atlas",
        "feature page",
        "feature names",
        "causal graph",
        "validation",
        "estimated graph",
    )
