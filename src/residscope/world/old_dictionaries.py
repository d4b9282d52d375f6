"""Dictionaries that version 0.1 fitted, in the user's data folder: one file for each model. New ones are items of the shelf."""

from dataclasses import replace
from pathlib import Path

from residscope import directions
from residscope.errors import FileNotThere, ResidscopeError
from residscope.shelf.items import check_fits
from residscope.shelf.whole import set_aside
from residscope.world.loaded import Loaded


class OldDictionaries:
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
            for dictionary in found.values():
                check_fits(dictionary, loaded.model)
        except FileNotThere:
            return loaded, None
        except (ResidscopeError, OSError) as error:
            return loaded, set_aside(file, "The fitted dictionaries", error)
        found = {id: dictionary for id, dictionary in found.items() if id not in loaded.dictionaries}
        return replace(
            loaded,
            dictionaries={**loaded.dictionaries, **found},
            code={**loaded.code, **{id: f"directions.read({str(file)!r}, model)[{id!r}]" for id in found}},
        ), None

    def save(self, loaded: Loaded) -> None:
        """Write down what is left of them. Raises ResidscopeError where the folder cannot be written."""
        if loaded.file is None or not loaded.file.exists():
            return
        left = {id: dictionary for id, dictionary in loaded.fitted.items() if id not in loaded.shelved}
        try:
            if not left:
                loaded.file.unlink(missing_ok=True)
                return
            directions.save(loaded.file, left, loaded.model)
        except OSError as error:
            raise ResidscopeError(
                f"the fitted dictionaries could not be kept: {error}",
                received=loaded.file,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None
