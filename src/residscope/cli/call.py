"""A method run from the command line: its words read, its progress shown, what it makes written or shown."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from residscope.cli.outputs import Outputs
from residscope.cli.parts import bar, torch_dtype
from residscope.cli.words import Taken
from residscope.declare import Method
from residscope.errors import BadArguments, Cancelled, ResidscopeWarning
from residscope.fields.base import Spec
from residscope.progress import heard_warnings

STOPPED = 130  # the exit code of what Ctrl-C ended


def run_method(
    id: str, words: Mapping[str, Sequence[str]], outputs: Outputs, *, model: str, dtype: str, device: str
) -> None:
    """Raises BadArguments, and what the method, its fields and the model refuse."""
    from residscope.manifest import find_method

    method = find_method(id)
    called = Taken.of(method.schema()).called
    plain, texts = arguments(method, words, called)
    outputs.check_kind(method)
    number_type = torch_dtype(dtype)
    import residscope as rs
    from residscope.cli.made import show, write
    from residscope.cli.world import FileWorld
    from residscope.world.loaded import Loaded

    with bar() as progress:
        loaded = rs.load(model, dtype=number_type, device=device, progress=progress)
    world = FileWorld(Loaded.of(loaded, source=model), texts=texts)
    method.look(plain, world)
    with heard_warnings() as told, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidscopeWarning)  # said below, in words
        made, stopped = watched(method, plain, world)
    for warning in told:
        print(f"residscope: {id} warns: {warning}", file=sys.stderr)
    if made is not None:
        write(made, outputs, loaded)
        if "-" not in outputs.files.values():
            show(made, world.loaded)
    if stopped:
        files = [path for path in outputs.files.values() if path != "-"]
        what = (
            "nothing was finished"
            if made is None
            else "what was finished is " + (f"in {', '.join(files)}" if files else "above")
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
            value: Any = argument.field.read(typed)
            raw[argument.wire] = (
                False if argument.default is True else value
            )  # a flag that is on is said to turn it off
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
    with bar() as progress:
        watch = {} if progress is None else {"progress": progress}
        try:
            for item in method.run(plain, world, **watch):
                latest = item
        except (Cancelled, KeyboardInterrupt) as stopped:
            partial = getattr(stopped, "partial", None)
            return (latest if partial is None else partial), True
        return latest, False
