"""`residscope survey METHOD MODEL ...`: one measure over many models, revisions and seeds."""

import json
from collections.abc import Sequence
from typing import Any

import typer

from residscope.cli.outputs import Outputs
from residscope.cli.run import schema_of
from residscope.cli.words import COMMON, Taken, option
from residscope.errors import BadArguments

OWN = {"seeds": "0,1,2", "over": "layer", "reduce": "max", "folder": "FOLDER"}
WHOLE = "none"


def survey(context: typer.Context) -> None:
    """A method's number for each of several models: METHOD MODEL MODEL ... and the method's own options.

    A hub's checkpoint stands behind @: EleutherAI/pythia-70m@step1000. --over DIM: what is kept apart, a heat map of models and
    layers unless said; none: a number a model, a curve. --reduce max, mean or min: of all the rest. --seeds 0,1,2: of a method
    that takes a seed. --folder FOLDER: what was measured is kept there, and a survey that was stopped goes on. --json, --csv,
    --html, --save, --dtype and --device as for `residscope run METHOD`, whose --help says what the method takes.

        residscope survey head-scores smollm2-135m ./tuned --kinds induction --n 4 --folder survey --html survey.html
    """
    words = context.args or ["--help"]
    bare = words[: next((at for at, word in enumerate(words) if word.startswith("--")), len(words))]
    if "--help" in words or not bare:
        typer.echo(context.get_help())
        return
    id, models = bare[0], bare[1:]
    if not models:
        raise BadArguments(
            "a survey takes models", received=f"only {id}", allowed=f"residscope survey {id} MODEL MODEL ..."
        )
    common = {*COMMON, *OWN} - {"model"}
    taken = Taken.of(schema_of(id), common)
    given = Taken(id, taken.arity, (), taken.required, taken.examples).sort(words[len(bare) :])
    own = {name: given.pop(option(name))[0] for name in common if option(name) in given}
    outputs = Outputs(*(own.pop(name, None) for name in ("json", "csv", "html", "save")))
    outputs.check()
    _run(id, models, given, taken, outputs, own)


def _run(
    id: str, models: list[str], given: dict[str, Sequence[str]], taken: Taken, outputs: Outputs, own: dict[str, str]
) -> None:
    import residscope as rs
    from residscope.cli.call import STOPPED, arguments
    from residscope.cli.made import show, write
    from residscope.cli.parts import bar, torch_dtype
    from residscope.cli.world import FileWorld
    from residscope.errors import Cancelled
    from residscope.manifest import find_method
    from residscope.world.loaded import Loaded

    method, how = (
        find_method(id),
        {"dtype": torch_dtype(own.get("dtype", "float32")), "device": own.get("device", "cpu")},
    )
    seeds = _seeds(own.get("seeds"), "--seed" in taken.arity, id)
    arguments(method, given, taken.called)  # refused before any model is loaded
    held: dict[str, str] = {}

    def load(source: str) -> Any:
        held["source"] = source
        return rs.load(source, **how)

    def measure(model: Any, seed: int) -> Any:
        words = {**given, "--seed": [str(seed)]} if own.get("seeds") else given
        plain, texts = arguments(method, words, taken.called)
        world = FileWorld(Loaded.of(model, source=held["source"]), texts=texts)
        method.look(plain, world)
        return [*method.run(plain, world)][-1]

    over = own.get("over", "layer")
    name = json.dumps([id, given, own.get("dtype", "float32")])
    stopped = False
    with bar() as progress:
        try:
            found: Any = rs.survey(
                measure, models, seeds=seeds, over=None if over == WHOLE else over, reduce=own.get("reduce", "max"),
                name=id, kept_as=name, folder=own.get("folder"), load=load, progress=progress,
            )  # fmt: skip
        except (Cancelled, KeyboardInterrupt) as stop:
            found, stopped = getattr(stop, "partial", None), True
    if found is not None:
        write(found, outputs, None)
        if "-" not in outputs.files.values():
            show(found, None)
    for source, why in ({} if found is None else found.failed).items():
        typer.echo(f"residscope: {source} was not measured: {why}", err=True)
    if stopped:
        raise typer.Exit(STOPPED)


def _seeds(said: str | None, takes: bool, id: str) -> list[int]:
    """Raises BadArguments."""
    if said is None:
        return [0]
    if not takes:
        raise BadArguments(f"{id} takes no seed", received=f"--seeds {said}", allowed="without --seeds")
    try:
        return [int(part) for part in said.split(",")]
    except ValueError:
        raise BadArguments("--seeds does not read", received=said, allowed="numbers such as 0,1,2") from None
