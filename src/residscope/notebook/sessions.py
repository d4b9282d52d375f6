"""The sessions of this process: one for each model object, kept for the next kernel where the notebook has a name."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from residscope.drafts import sweep
from residscope.engine.loading import load
from residscope.engine.model import Model
from residscope.errors import ModelNotFound
from residscope.model import catalog
from residscope.session import Session

_open: list["Opened"] = []
_lock = threading.RLock()


@atexit.register
def close_all() -> None:
    """Before the kernel takes its channels down: what is running stops, and each session is kept for the next kernel."""
    for opened in [*_open]:
        forget(opened)


class Opened:
    """A session, and the name that the same one has after a restart."""

    def __init__(self, session: Session, place: str) -> None:
        self.session, self.place = session, place
        self.at_end: list[Callable[[], None]] = []


def session_of(model: Any) -> Opened:
    """The session on this very model, or a new one; without a model the latest, or one on the default model.

    Raises:
        ModelError: the model cannot be loaded. ModelNotFound: it is no model.
    """
    with _lock:
        if model is None and _open:
            return _open[-1]
        if isinstance(model, str) and (found := _named(model)) is not None:
            return found
        made = _model(model)
        for opened in _open:
            held = opened.session.state.model
            if held is not None and held.model.hf is made.hf:
                _open.remove(opened)
                _open.append(opened)
                return opened
        return _new(
            made, named=model if isinstance(model, str) else made.name if made.name in catalog.CATALOG else None
        )


def forget(opened: Opened) -> None:
    """Close a session: the next workbench on its model begins anew."""
    with _lock:
        if opened in _open:
            _open.remove(opened)
    for end in opened.at_end:
        end()
    opened.session.close()


def _named(name: str) -> Opened | None:
    for opened in reversed(_open):
        held = opened.session.state.model
        if held is not None and held.source == name:
            return opened
    return None


def _model(model: Any) -> Model:
    if isinstance(model, Model):
        return model
    if model is None:
        return load(catalog.DEFAULT)
    if isinstance(model, tuple) and len(model) != 2:
        raise ModelNotFound(
            "this is no model", received=f"a tuple of {len(model)}", allowed="a name, rs.load(...), (hf_model, tokenizer)"
        )  # fmt: skip
    return load(model)


def _new(model: Model, *, named: str | None) -> Opened:
    place = _place(model.name)
    folder = catalog.data_folder()
    sweep(folder, below=True)
    memory = folder / "sessions" / f"notebook-{place}.json" if _notebook() else None
    session = Session(load=load, folder=folder, memory=memory)
    options = {} if model.dtype == torch.float32 else {"dtype": model.dtype}
    session.load(model, named=named, **options)
    while session.state.model is None and session.state.status.phase != "failed":
        time.sleep(0.01)
    if session.state.model is None:
        error = session.state.status.error
        session.close()
        raise ModelNotFound(
            f"{model.name} could not be opened: {error['message'] if error else session.state.status.detail}"
        )
    opened = Opened(session, place)
    _open.append(opened)
    return opened


def _notebook() -> str:
    """The notebook that this kernel is of, where the server says it."""
    return os.environ.get("JPY_SESSION_NAME", "") or os.environ.get("VSCODE_JUPYTER_NOTEBOOK", "")


def _place(name: str) -> str:
    return sha256(f"{_notebook() or Path.cwd()}\0{name}".encode()).hexdigest()[:16]
