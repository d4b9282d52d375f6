"""Items: what everything that can be kept has in common, whichever room it comes from. It shows itself, and is one file."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from torch import Tensor

from residscope.endings import check_ending
from residscope.errors import DamagedFile, WrongModel
from residscope.files import kind_of
from residscope.views import View, save_html, save_picture


@runtime_checkable
class Item(Protocol):
    """A result, a report, a direction, a dictionary, a probe, a recording, prompts, what was generated.

    kind: the word for it in files. nbytes: memory held by its tensors. provenance: plain values that say where it came from.
    """

    kind: ClassVar[str]

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def nbytes(self) -> int: ...

    def view(self) -> View:
        """As a picture."""

    def save(self, path: str | Path) -> None:
        """One file: safetensors that `load` reads, or by the ending a page (.html) or a figure (.png, .svg, .pdf)."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. (A recording takes the model too, which it is checked against.)"""


OPENED_BY = {
    "result": "residscope.results:Result.load",
    "direction": "residscope.directions:Direction.load",
    "dictionary": "residscope.directions:Dictionary.load",
    "probe": "residscope.probes.probe:Probe.load",
    "prompts": "residscope.model.prompts:PromptSet.load",
    "generation": "residscope.engine.generation:Generation.load",
    "report": "residscope.reports:Report.load",
}
OPENED_BY_ENDING = {".json": "residscope.graph:Graph.load", ".pt": "residscope.graph:Graph.load"}
OPENED_WITH_MODEL = {
    "recording": "residscope.recording_files:load_recording",
    "dictionaries": "residscope.directions:read",
}


def load_item(path: str | Path, model: Any = None) -> Any:
    """Open whatever a file says it holds: an `Item`, or what `rs.directions.save` wrote (dictionaries by their ids).

    JSON and `.pt` are graphs'. A recording, and such dictionaries, are checked against the `model` that they are of, and so
    need it.

        rs.load_item("evidence.safetensors").view()

    Raises:
        FileNotThere, DamagedFile: no file, or none that an item was saved to. WrongModel: it needs a model, or is another's.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in OPENED_BY_ENDING:
        return _named(OPENED_BY_ENDING[path.suffix.lower()])(path)
    said = kind_of(path)
    kind = said.partition(":")[0]
    if kind in OPENED_BY:
        return _named(OPENED_BY[kind])(path)
    if kind not in OPENED_WITH_MODEL:
        allowed = ", ".join([*OPENED_BY, *OPENED_WITH_MODEL])
        fix = "rs.edits.load(path)" if kind == "edits" else None
        raise DamagedFile(f"{path.name} holds no item of this version", received=said, allowed=allowed, fix=fix)
    if model is None:
        raise WrongModel(
            f"{path.name} holds a {kind} of a model, and none is given to check it against"
            if kind == "recording"
            else f"{path.name} holds {kind} of a model, and none is given to check them against",
            received="no model",
            fix="rs.load_item(path, model)",
        )
    return _named(OPENED_WITH_MODEL[kind])(path, model)


def save_item(item: Item, path: str | Path, write: Callable[[Path], Any]) -> None:
    """A page or a figure of the item's view, where the ending says so; else what `write` makes.

    Raises:
        WrongEnding, FileNotThere: a name of another kind of file; no such folder.
    """
    path = Path(path).expanduser()
    ending = check_ending(path, "item", called=item.kind.partition(":")[2] or item.kind)
    if ending == ".html":
        save_html(item.view(), path)
    elif ending in (".safetensors", ""):
        write(path)
    else:
        save_picture(item.view(), path)


def nbytes_of(value: Any) -> int:
    """Memory held by the tensors in a value, in bytes, each storage counted once."""
    storages: dict[int, int] = {}

    def walk(part: Any) -> None:
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, np.ndarray):
            storages[part.ctypes.data] = part.nbytes
        elif is_dataclass(part) and not isinstance(part, type):
            for f in fields(part):
                walk(getattr(part, f.name))
        elif isinstance(part, Mapping):
            for inner in part.values():
                walk(inner)
        elif isinstance(part, tuple | list):
            for inner in part:
                walk(inner)

    walk(value)
    return sum(storages.values())


def _named(place: str) -> Any:
    """By its module and name: a later room's, imported when it is wanted."""
    module, _, names = place.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found
