"""Another model by its name, loaded once: the latest is kept, until another is asked for."""

import threading
from typing import Any

from residscope.engine.alike import require_alike
from residscope.engine.loading import load
from residscope.engine.model import Model
from residscope.incoming import path_of
from residscope.model.adapters import parted

_lock = threading.Lock()
_latest: "tuple[Any, Model] | None" = None


def other_model(name: str, like: Model) -> Model:
    """A model to lay beside another, in its precision and on its device.

    Raises:
        ModelError: it cannot be loaded. OtherModel: its shapes or its tokens differ.
    """
    global _latest
    with _lock:
        key = name, like.dtype, str(like.device), _stamp(name)
        if _latest is None or _latest[0] != key:
            _latest = None  # before the next is loaded: two at a time, with the one that it stands beside
            _latest = key, load(name, dtype=like.dtype, device=like.device)
        found = _latest[1]
    require_alike(like, found)
    return found


def _stamp(name: str) -> tuple[int, ...]:
    """When the files of a folder, or of an adapter's, were last written: their names may come to mean other weights."""
    folders = [path_of(part) for part in parted(name) if part]
    return tuple(file.stat().st_mtime_ns for path in folders if path.is_dir() for file in sorted(path.iterdir()))
