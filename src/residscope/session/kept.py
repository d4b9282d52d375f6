"""Fitted dictionaries in the user's data folder: one file for each model, replaced whole."""

from dataclasses import replace
from pathlib import Path

from residscope import directions
from residscope.corpus.vectors import one_vector
from residscope.errors import DamagedFile, FileNotThere, ResidscopeError
from residscope.session.fit import stored_code
from residscope.session.loaded import Loaded
from residscope.session.saved import set_aside


class Shelf:
    """Files by the hash of the model's weights. A damaged one is moved aside and named; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / "dictionaries"

    def load(self, loaded: Loaded) -> tuple[Loaded, str | None]:
        """The model with what was fitted on it before, and a notice where that could not be read."""
        if self.folder is None:
            return loaded, None
        file = self.folder / f"{loaded.model.hash or loaded.model.fingerprint()}.safetensors"
        loaded = replace(loaded, file=file)
        try:
            found = directions.read(file, loaded.model)
            for id, dictionary in found.items():
                _check(id, dictionary, loaded)
        except FileNotThere:
            return loaded, None
        except (ResidscopeError, OSError) as error:
            return loaded, set_aside(file, "The fitted dictionaries", error)
        found = {id: dictionary for id, dictionary in found.items() if id not in loaded.taken}
        return replace(
            loaded,
            dictionaries={**loaded.dictionaries, **found},
            code={**loaded.code, **{id: stored_code(loaded, id) for id in found}},
            taken=loaded.taken.union(found),
        ), None

    def save(self, loaded: Loaded) -> None:
        """Raises ResidscopeError where the folder cannot be written."""
        if loaded.file is None:
            return
        try:
            if not loaded.fitted:
                loaded.file.unlink(missing_ok=True)
                return
            loaded.file.parent.mkdir(parents=True, exist_ok=True)
            directions.save(loaded.file, loaded.fitted, loaded.model)
        except OSError as error:
            raise ResidscopeError(
                f"the fitted dictionaries could not be kept: {error}",
                received=loaded.file,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None


def _check(id: str, dictionary: directions.Dictionary, loaded: Loaded) -> None:
    width = loaded.model.sites.width(one_vector(loaded.model, dictionary.site, dictionary.head))
    if dictionary.read.shape[1] != width or not len(dictionary):
        raise DamagedFile(f"{id} has vectors of width {dictionary.read.shape[1]}, not {width}")
