"""What the words of a command line mean: a session's world without a page, where a name may be a file's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residscope.corpus.text import opened
from residscope.directions import Dictionary, Direction
from residscope.directions import read as read_dictionaries
from residscope.errors import NotFound, WrongModel, WrongWidth
from residscope.fields.directions import AnyDirection, DictionaryTerm, MixRef, SavedRef
from residscope.fields.texts import BuiltInText, TypedText
from residscope.files import kind_of
from residscope.items import load_item
from residscope.world.imported import read_direction
from residscope.world.session_world import SessionWorld
from residscope.world.stack import make, parse_edits


@dataclass(frozen=True, eq=False)
class FileWorld(SessionWorld):
    """The model and files: `DICTIONARY.safetensors`, `FILE#ID` where it holds several, `FILE[3]`, a probe's, a recording's.

    texts: the file that each text was read from.
    """

    texts: Mapping[str, str] = field(default_factory=dict)

    def text(self, ref: Any) -> Any:
        """Raises CorpusError."""
        if isinstance(ref, TypedText) and ref.text in self.texts:
            return self.texts[ref.text]
        return opened(ref.name) if isinstance(ref, BuiltInText) else super().text(ref)

    def dictionary(self, id: str) -> Dictionary:
        """Raises NotFound, WrongModel, DamagedFile."""
        name, _, part = id.partition("#")
        path = Path(name).expanduser()
        if id in self.loaded.dictionaries or not path.is_file():
            return super().dictionary(id)
        one_of_several = kind_of(path) == "dictionaries"
        several = read_dictionaries(path, self.model) if one_of_several else {"": self.item(name, "dictionary")}
        if part in several or (len(several) == 1 and not part):
            return several[part] if part in several else next(iter(several.values()))
        known = ", ".join(f"{name}#{key}" for key in several)
        raise NotFound("say which of the file's dictionaries", received=id, allowed=known)

    def direction(self, ref: AnyDirection) -> Direction:
        """Raises NotFound, WrongModel, WrongWidth, DamagedFile."""
        if isinstance(ref, SavedRef) and ref.name not in self.directions:
            path = Path(ref.name).expanduser()
            if not path.is_file():
                raise NotFound(
                    "there is no such direction", received=ref.name,
                    allowed='"PC 7@resid_post.23", "logit: Mary, John", "token: Mary", a file, "FILE[3]" of a dictionary',
                )  # fmt: skip
            if kind_of(path) != "direction":
                self._refuse_kind(ref.name, "direction")
            return read_direction(path.read_bytes(), self.loaded, {})[1]
        if isinstance(ref, MixRef):
            ids = {term.dictionary for term in ref.terms if isinstance(term, DictionaryTerm)}
            own = {id: self.dictionary(id) for id in sorted(ids - self.loaded.dictionaries.keys())}
            if own:
                known = replace(self.loaded, dictionaries={**self.loaded.dictionaries, **own})
                return replace(self, loaded=known).direction(ref)
        return super().direction(ref)

    def probe(self, name: str) -> Any:
        """Raises NotFound, WrongModel, DamagedFile."""
        kind = "report:probe_map"
        path = Path(name).expanduser()
        if path.is_file() and kind_of(path) == kind:
            probe = self.item(name, kind).probe
            check_model(probe, name, self.model)
            return probe
        return self.item(name, "probe")

    def probe_map(self, name: str) -> Any:
        """Raises NotFound, WrongModel, DamagedFile."""
        mapped = self.item(name, "report:probe_map")
        check_model(mapped.probe, name, self.model)
        return mapped

    def edits(self, ref: Any) -> tuple[Any, ...]:
        """For prompts that have labels and positions of their own, which is what they are checked against when they run."""
        if ref == "live":
            raise NotFound(
                "the command line has no page whose edits to take", received="live", allowed="a list, or a file"
            )
        return tuple(make(spec, self) for spec in parse_edits(ref))

    def item(self, name: str, kind: str) -> Any:
        """An item of a file. Raises NotFound, WrongModel, WrongWidth, DamagedFile."""
        path = Path(name).expanduser()
        if not path.is_file():
            raise NotFound(
                f"there is no file of a {kind} there", received=name, allowed=f"the .safetensors of a {kind}"
            )
        if kind_of(path) != kind:
            self._refuse_kind(name, kind)
        item = load_item(path, self.model)
        check_model(item, name, self.model)
        return item

    def _refuse_kind(self, name: str, kind: str) -> None:
        actual = kind_of(Path(name).expanduser())
        raise NotFound(f"that file holds no {kind}", received=f"{name}, {actual}", allowed=f"a file of a {kind}")

    def _prompt(self) -> Any:
        raise NotFound("the command line has no live prompt", allowed="a prompt as text, or a position as a number")


def check_model(item: Any, name: str, model: Any) -> None:
    """Refuse what says that it is of another model, or is of another width. Raises WrongModel, WrongWidth."""
    made_on = item.provenance.get("hash") or item.provenance.get("model")
    known = model.hash
    if known and isinstance(made_on, str) and len(made_on) == len(known) and made_on != known:
        raise WrongModel(
            f"{name} is of another model", received=made_on[:12], allowed=f"{model.name} ({known[:12]})",
            fix="load the model that it was made on: --model",
        )  # fmt: skip
    vectors = getattr(item, "read", getattr(item, "weights", None))
    if vectors is not None and getattr(item, "site", None):
        width = model.sites.width(model.sites.parse(item.site))
        if vectors.shape[-1] != width:
            raise WrongWidth(
                f"{name} is of another width", received=vectors.shape[-1], allowed=f"{width} at {item.site}"
            )
