"""What a format gives: the parts of a dictionary, where it is hooked, and what else its files say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.sae.files import read_config, read_tensors, weight
from residscope.sae.folding import Parts
from residscope.sae.source import Place


@dataclass(frozen=True)
class Found:
    """A dictionary as it stands in a file, in our parts. site, written: None where nothing says.

    model: the model's name as the file has it. bos: whether its texts began with BOS. centred: of a model with
    `center_writing_weights` (not folded yet). scale: what
    x was multiplied by in training; None where nothing says. more: for the provenance.
    """

    format: str
    parts: Parts
    site: str | None = None
    written: str | None = None
    model: str | None = None
    bos: bool | None = None
    centred: bool = False
    scale: float | None = 1.0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """One file of weights, with what lies beside it. id: what it is called among several."""

    place: Place
    file: str
    id: str

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0]

    @property
    def base(self) -> str:
        return self.file.rpartition("/")[2]

    @property
    def words(self) -> str:
        """The whole of where it lies: some formats say layer and model there alone."""
        return f"{self.place.words}/{self.file}"

    @cached_property
    def path(self) -> Path:
        return self.place.fetch(self.file)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        return read_tensors(self.path)

    @property
    def names(self) -> set[str]:
        return {*self.tensors}

    def weight(self, name: str) -> Tensor:
        return weight(self.tensors, name)

    def beside(self, *names: str, above: bool = False) -> str | None:
        """The first of these files that lies beside it; above: or in a folder above."""
        folder = self.folder
        while True:
            for name in names:
                if (path := f"{folder}/{name}" if folder else name) in self.place.names:
                    return path
            if not folder or not above:
                return None
            folder = folder.rpartition("/")[0]

    def config(self, *names: str, above: bool = False) -> dict[str, Any]:
        """What the first of these files says; nothing where there is none."""
        path = self.beside(*names, above=above)
        return {} if path is None else read_config(self.place.fetch(path))


@dataclass(frozen=True)
class Format:
    """What it is called, which files it has, which units are its own, and how one is read (ValueError, KeyError: damaged)."""

    name: str
    files: str
    mine: Callable[[Unit], bool]
    read: Callable[[Unit], Found]
