"""Out-of-tree packages: what their entry points name is imported, and so declares itself; one that fails is named and skipped."""

import logging
from functools import cache
from importlib.metadata import entry_points

GROUPS = ("residscope.methods", "residscope.edits", "residscope.tasks", "residscope.families")
_log = logging.getLogger(__name__)

BROKEN: dict[str, str] = {}
"""Why each plugin that could not be imported could not, by `group: name`."""


@cache
def load_plugins() -> tuple[str, ...]:
    """Import every plugin once; the names of those that are there.

    An entry point of the group `residscope.methods`, `.edits`, `.tasks` or `.families` names a module, or a function in one.
    """
    loaded: list[str] = []
    for group in GROUPS:
        for point in entry_points(group=group):
            name = f"{group}: {point.name}"
            try:
                point.load()
            except Exception as error:  # whatever a stranger's module raises while it is imported
                BROKEN[name] = f"{type(error).__name__}: {error}"
                _log.warning("the plugin %s was skipped: %s", name, BROKEN[name])
            else:
                loaded.append(name)
    return tuple(loaded)


def installed() -> bool:
    """Whether there is any plugin; imports none."""
    return any(entry_points(group=group) for group in GROUPS)
