"""What a readout is called, and in what unit it counts: by itself where it says so, else by its function's or class's name."""

import re
from functools import partial
from typing import Any

_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
NAMELESS = "readout"


def label_of(readout: Any, model: Any = None) -> str:
    """A readout in words: its own `labelled(model)` or `label`, else its name.

    >>> def mass_of_names(recording): ...
    >>> label_of(mass_of_names)
    'mass of names'
    """
    if model is not None and callable(labelled := getattr(readout, "labelled", None)):
        return str(labelled(model))
    label = getattr(readout, "label", None)
    return label if isinstance(label, str) and label else _in_words(_name(readout))


def unit_of(readout: Any) -> str:
    """The unit that a readout says its numbers have; none where it says nothing."""
    unit = getattr(readout, "unit", "")
    return unit if isinstance(unit, str) else ""


def _name(readout: Any) -> str:
    while isinstance(readout, partial):
        readout = readout.func
    return str(getattr(readout, "__name__", None) or type(readout).__name__)


def _in_words(name: str) -> str:
    """`LogitOfParis`, `logit_of_paris`: "logit of paris"; what is all capitals stays so; what has no letters is no name."""
    words = [word if word.isupper() and len(word) > 1 else word.lower() for word in _HUMPS.findall(name)]
    return NAMELESS if name == "<lambda>" or not words else " ".join(words)
