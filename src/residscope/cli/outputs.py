"""Where a command's item goes to, refused before anything runs where it could not be written there."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from residscope.endings import check_ending
from residscope.errors import BadArguments, FileNotThere, WrongEnding

if TYPE_CHECKING:
    from residscope.declare import Method


@dataclass(frozen=True)
class Outputs:
    """Where what is made goes to; `-` is the screen."""

    json: str | None = None
    csv: str | None = None
    html: str | None = None
    save: str | None = None

    @property
    def files(self) -> dict[str, str]:
        every = {"json": self.json, "csv": self.csv, "html": self.html, "save": self.save}
        return {name: path for name, path in every.items() if path is not None}

    def check(self) -> None:
        """Refuse, before anything runs, what could not be written. Raises WrongEnding, FileNotThere, BadArguments."""
        for name, path in self.files.items():
            if path == "-" and name in ("json", "csv"):
                continue
            if name == "html" and not path.lower().endswith(".html"):
                raise WrongEnding("a page cannot be written so", received=path, allowed=".html")
            if name == "save":
                check_ending(path, "item")
            if not Path(path).expanduser().parent.is_dir():
                raise FileNotThere("there is no such folder", received=str(Path(path).parent), fix="make it first")
        if self.json == self.csv == "-":
            raise BadArguments("the screen takes one of the two", received="--json - --csv -", allowed="a file for one")
        if len({*self.files.values()} - {"-"}) < len([path for path in self.files.values() if path != "-"]):
            raise BadArguments(
                "two options name one file", received=", ".join(self.files.values()), allowed="a file each"
            )

    def check_kind(self, method: "Method") -> None:
        """Refuse a table of a method that makes none, as far as its annotation tells. Raises WrongEnding."""
        made = get_type_hints(method.function).get("return")
        several = _classes(made)
        if self.csv and several and not any(_has_table(kind) for kind in several):
            words = ", ".join(kind.__name__ for kind in several)
            raise WrongEnding(
                f"{method.id} makes no table", received=f"--csv {self.csv}", allowed="--json, --html, --save", fix=words
            )


def _classes(made: Any) -> list[type]:
    """The classes of items in an annotation."""
    if isinstance(made, type) and not get_args(made):
        return [made]
    return [cls for part in get_args(made) if part is not str for cls in _classes(part)]


def _has_table(kind: type) -> bool:
    return hasattr(kind, "to_dataframe") and getattr(kind, "main", "itself") is not None
