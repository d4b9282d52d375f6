"""Which releases of the libraries Residscope was run with: the oldest and the newest, as `make versions` left them."""

import json
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.version import Version

TRIED = Path(__file__).with_name("versions.json")
_said: set[str] = set()


class UntriedVersion(UserWarning):
    """A library newer than the newest that the families were run with."""


@cache
def tried() -> dict[str, tuple[str, str]]:
    """For each library, the oldest and the newest release that `make versions` ran."""
    oldest, newest = (json.loads(TRIED.read_text())[end] for end in ("oldest", "newest"))
    return {library: (oldest[library], newest[library]) for library in oldest}


def newer_than_tried(library: str, installed: str) -> bool:
    """Whether a release comes after every one that was run; a build's own mark (`+cpu`) does not count."""
    return Version(Version(installed).public) > Version(tried()[library][1])


def untried() -> tuple[str, ...]:
    """The libraries installed here that are newer than any that was run, in words; empty where all were."""
    here = {library: metadata.version(library) for library in tried()}
    return tuple(
        f"{library} {installed} (run with {' to '.join(tried()[library])})"
        for library, installed in here.items()
        if newer_than_tried(library, installed)
    )


def warn_of_untried() -> None:
    """Say once in a process which libraries are newer than any that was run."""
    new = [words for words in untried() if words not in _said]
    if new:
        _said.update(new)
        warnings.warn(
            f"newer than what Residscope's families were run with: {', '.join(new)}. The certificate of each model is measured "
            "on what is installed",
            UntriedVersion,
            stacklevel=3,
        )
