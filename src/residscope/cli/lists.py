"""`residscope methods`, `residscope edits` and `residscope glossary`: what there is, and what words mean."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from residscope.cli.parts import print_json

Json = Annotated[bool, typer.Option("--json", help="print JSON instead, with what each takes")]


def methods(
    group: Annotated[str | None, typer.Option(help="sweeps, directions, evidence, probes, prompts ...")] = None,
    json: Json = False,
) -> None:
    """Every method, plugins' too. `residscope run ID` runs one."""
    from residscope.cli.run import schemas
    from residscope.errors import NotFound

    every = [*schemas().values()]
    groups = sorted({schema["group"] for schema in every})
    if group is not None and group not in groups:
        raise NotFound("no method is of that group", received=group, allowed=", ".join(groups))
    listed = [schema for schema in every if group in (None, schema["group"])]
    listed.sort(key=lambda schema: (schema["group"], schema["id"]))
    _print("methods", listed, ("group", "title"), json=json)


def edits(json: Json = False) -> None:
    """Every kind of edit, plugins' too, as the page and `--edits JSON` have them."""
    from residscope.declare import EDITS
    from residscope.manifest import all_methods

    all_methods()  # imports the rooms and the plugins, which declare them
    _print("edits", [kind.schema() for _, kind in sorted(EDITS.items())], ("glyph", "title"), json=json)


def glossary(
    term: Annotated[list[str] | None, typer.Argument(metavar="TERM", help="K-composition, logit lens ...")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """What a term of the field means; without one, all terms."""
    from residscope.terms import glossary

    if term:
        entry = glossary(" ".join(term))
        print_json(entry.to_dict()) if json else typer.echo(entry)
    elif json:
        print_json([entry.to_dict() for entry in glossary()])
    else:
        typer.echo(glossary())


def _print(what: str, listed: Sequence[Mapping[str, Any]], words: tuple[str, ...], *, json: bool) -> None:
    from residscope.declare.plugins import BROKEN

    if json:
        print_json({what: listed, "broken": dict(BROKEN)})
        return
    widths = {key: max((len(str(entry[key])) for entry in listed), default=0) for key in ("id", *words)}
    for entry in listed:
        columns = "  ".join(f"{entry[key]!s:<{widths[key]}}" for key in ("id", *words))
        typer.echo(f"{columns}  {entry['about']}"[:200].rstrip())
    for name, why in BROKEN.items():
        typer.echo(f"broken plugin {name}: {why}")
