"""Every reader by its name."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from hostile.kept import KEPT
from hostile.others import OTHERS
from hostile.own import OWN
from hostile.whole import Files, Reader


def _said(kind: str) -> Callable[[Random], bytes]:
    def draw(at: Random) -> bytes:
        from hostile.doors import said

        return said(kind, at)

    return draw


def _ask(folder: Path) -> Any:
    from hostile.doors import ask

    return ask(folder)


def _hear(folder: Path) -> Any:
    from hostile.doors import hear

    return hear(folder)


def _prompt() -> Files:
    return {"it.json": b'{"kind": "intent", "name": "set_prompt", "args": {"text": "the store"}}'}


READERS: dict[str, Reader] = {
    "the page's intents": Reader(_prompt, _ask, draw=_said("intent"), held=True),
    "the page's queries": Reader(_prompt, _ask, draw=_said("query"), held=True),
    "the notebook's messages": Reader(_prompt, _hear, draw=_said("intent"), held=True),
    **OTHERS,
    **OWN,
    **KEPT,
}
