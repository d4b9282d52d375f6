"""Every method there is, by importing the rooms that hold them and the plugins; and a list of them that needs no torch."""

import json
from importlib import import_module
from importlib.resources import files
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from residscope.errors import UnknownMethod
from residscope.once import once

if TYPE_CHECKING:
    from residscope.declare.methods import Method

METHOD_ROOMS = ("attribution", "comparison", "evidence", "heads", "patching", "probes", "reading", "weights")
ROOMS = (
    *(f"residscope.methods.{room}" for room in METHOD_ROOMS),
    "residscope.corpus",
    "residscope.corpus.harvest",
    "residscope.directions",
    "residscope.features",
    "residscope.graph",
    "residscope.sae",
    "residscope.sae.training",
    "residscope.tasks",
)
FILE = "methods/manifest.json"


@once
def own_methods() -> "dict[str, Method]":
    """Residscope's own, by id."""
    from residscope.declare.methods import METHODS

    for room in ROOMS:
        for module in iter_modules(import_module(room).__path__):
            import_module(f"{room}.{module.name}")
    own = {id: method for id, method in METHODS.items() if method.function.__module__.startswith("residscope.")}
    return dict(sorted(own.items()))


def all_methods() -> "dict[str, Method]":
    """And those that plugins bring."""
    from residscope.declare.methods import METHODS
    from residscope.declare.plugins import load_plugins

    own_methods()
    load_plugins()
    return dict(sorted(METHODS.items()))


def find_method(id: str) -> "Method":
    """Raises UnknownMethod."""
    known = all_methods()
    if id not in known:
        raise UnknownMethod("there is no such method", received=id[:100], allowed=", ".join(known))
    return known[id]


def build() -> str:
    """The manifest: the schema of each of Residscope's own methods, as JSON."""
    return json.dumps([method.schema() for method in own_methods().values()], ensure_ascii=False, indent=1) + "\n"


def read() -> list[dict[str, Any]]:
    """The manifest as it was built; neither torch nor a method is imported."""
    found: list[dict[str, Any]] = json.loads((files("residscope") / FILE).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    from pathlib import Path

    (Path(__file__).parent / FILE).write_text(build(), encoding="utf-8")
