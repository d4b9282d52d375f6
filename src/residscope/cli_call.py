"""A method run from the command line: its words read, its progress shown, what it makes written or shown."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from residscope.cli_parts import bar, torch_dtype
from residscope.cli_words import Taken
from residscope.declare import Method
from residscope.endings import check_ending
from residscope.errors import BadArguments, Cancelled, FileNotThere, WrongEnding
from residscope.fields.base import Spec

STOPPED = 130  # the exit code of what Ctrl-C ended


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
            raise BadArguments("two options name one file", received=", ".join(self.files.values()), allowed="a file each")

    def check_kind(self, method: Method) -> None:
        """Refuse a table of a method that makes none, as far as its annotation tells. Raises WrongEnding."""
        made = get_type_hints(method.function).get("return")
        several = [kind for kind in _classes(made)]
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


def run_method(
    id: str, words: Mapping[str, Sequence[str]], outputs: Outputs, *, model: str, dtype: str, device: str
) -> None:
    """Raises BadArguments, and what the method, its fields and the model refuse."""
    from residscope.cli_run import COMMON
    from residscope.manifest import find_method

    method = find_method(id)
    called = Taken.of(method.schema(), [*COMMON]).called
    plain, texts = arguments(method, words, called)
    outputs.check_kind(method)
    kind = torch_dtype(dtype)
    import residscope as rs
    from residscope.cli_made import show, write
    from residscope.cli_world import FileWorld
    from residscope.session.loaded import Loaded

    with bar() as progress:
        of = rs.load(model, dtype=kind, device=device, progress=progress)
    world = FileWorld(Loaded.of(of, source=model), texts=texts)
    method.look(plain, world)
    made, stopped = watched(method, plain, world)
    if made is not None:
        write(made, outputs, of)
        if "-" not in outputs.files.values():
            show(made, world.loaded)
    if stopped:
        kept = [path for path in outputs.files.values() if path != "-"]
        what = "nothing was finished" if made is None else "what was finished is " + (
            f"in {', '.join(kept)}" if kept else "above"
        )
        print(f"residscope: {id} was stopped by Ctrl-C: {what}", file=sys.stderr)
        raise typer.Exit(STOPPED)


def arguments(method: Method, words: Mapping[str, Sequence[str]], called: Any) -> tuple[Spec, dict[str, str]]:
    """What was typed as plain values, checked; and the files that texts were read from, by text. Raises BadArguments."""
    raw: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for argument in method.arguments:
        name = called(argument.wire)
        if name not in words:
            continue
        typed = [*words[name]]
        try:
            raw[argument.wire] = value = argument.field.read(typed)
        except (ValueError, LookupError, OSError) as error:
            raise BadArguments(
                f"{name} does not read", received=" ".join([name, *map(repr, typed)]), allowed=argument.field.example,
                fix=str(error) or None,
            ) from None  # fmt: skip
        several = [value["first"], value["second"]] if argument.field.kind == "contrast" else [value]
        for word, part in zip(typed, several, strict=False):
            if isinstance(part, dict) and part.get("kind") == "typed" and "text" in part:
                texts[part["text"]] = word
                part["name"] = Path(word).stem  # a difference is named after what tells its texts apart
    return method.check(raw, called=called), texts


def watched(method: Method, plain: Spec, world: Any) -> tuple[Any, bool]:
    """What a method makes, and whether Ctrl-C stopped it: then what it had finished, None where that is nothing."""
    latest: Any = None
    with stopping("cancel" in method.takes) as stop, bar() as progress:
        watch = {"cancel": stop.is_set} | ({} if progress is None else {"progress": progress})
        try:
            for latest in method.run(plain, world, **watch):
                if stop.is_set():
                    break
        except Cancelled as stopped:
            return (latest if stopped.partial is None else stopped.partial), True
        except KeyboardInterrupt:
            return latest, True
        return latest, False


@contextlib.contextmanager
def stopping(cancels: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, where that is asked for; the second stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def hear(*_: Any) -> None:
        if not cancels or stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
