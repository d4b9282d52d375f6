"""Out-of-tree packages: what their entry points name is imported, and so declares itself; one that fails is named and skipped."""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any

from residscope.errors import NameAlreadyDeclared
from residscope.once import once

GROUPS = ("residscope.methods", "residscope.edits", "residscope.tasks", "residscope.families")
_log = logging.getLogger(__name__)

BROKEN: dict[str, str] = {}
"""Why each plugin that could not be imported could not, by `group: name`."""


def load_plugins() -> tuple[str, ...]:
    """Import every plugin once; the names of those that are there.

    An entry point of the group `residscope.methods`, `.edits` or `.tasks` names a module, or a function in one, and one of
    `.families` a `Family`, or a module whose `FAMILY` is one.
    """
    return tuple(name for group in GROUPS for name in load_group(group))


@once
def load_group(group: str) -> Mapping[str, Any]:
    """Import the plugins of one group, once; what each entry point names, by `group: name`."""
    loaded: dict[str, Any] = {}
    for point in _points(group):
        name = f"{group}: {point.name}"
        try:
            loaded[name] = point.load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises while it is imported
            skip(name, f"{type(error).__name__}: {error}")
    _take_back()
    return loaded


def _points(group: str) -> list[EntryPoint]:
    """The entry points of a group; where the list of one package cannot be read, it is named, and there are the others'."""
    try:
        return [*entry_points(group=group)]
    except Exception:  # importlib.metadata reads the lists of all, and raises whatever one of them makes it raise
        found: dict[str, EntryPoint] = {}
        for package in distributions():
            try:
                found |= {
                    point.name: point for point in package.entry_points.select(group=group) if point.name not in found
                }
            except Exception as error:
                skip(f"{group}: {package.name}", f"{type(error).__name__}: {error}")
        return [*found.values()]


def _take_back() -> None:
    """A plugin's declaration of which no form can be drawn is named, and is not there."""
    from residscope.declare import EDITS, METHODS, TASKS

    for registry in (EDITS, METHODS, TASKS):
        for id, one in [*registry.items()]:
            if one.function.__module__.startswith("residscope."):
                continue
            try:
                one.schema()
            except Exception as error:  # whatever its annotations and defaults make of it
                del registry[id]
                skip(f"{one.function.__module__}: {id}", f"{type(error).__name__}: {error}")


def skip(name: str, why: str) -> None:
    """Note that a plugin is not used, and why."""
    if name not in BROKEN:
        BROKEN[name] = why
        _log.warning("the plugin %s was skipped: %s", name, why)


def claim(what: str, id: str, known: Any, function: Callable[..., Any]) -> None:
    """Let a function have an id that `known` may have already: Residscope's own takes it from a plugin's, which is then named.

    Raises:
        NameAlreadyDeclared: another function has it, and stays.
    """
    if known is None or known.function.__module__ == function.__module__:
        return
    ours, known_ours = (one.__module__.startswith("residscope.") for one in (function, known.function))
    if known_ours or not ours:
        fix = f"see {known.function.__module__}"
        raise NameAlreadyDeclared(f"two {what} have one id", received=id, allowed="another id", fix=fix)
    skip(f"{known.function.__module__}: {id}", "Residscope has one of that id")


def installed() -> bool:
    """Whether there is any plugin; imports none."""
    return any(_points(group) for group in GROUPS)
