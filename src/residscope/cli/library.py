"""`residscope directions` and `residscope store`. Nothing heavy is imported before a command needs it."""

import getpass
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from residscope.store import Database, Library

directions = typer.Typer(help="The library of saved directions.", no_args_is_help=True, rich_markup_mode=None)
store = typer.Typer(help="The database that the library lies in.", no_args_is_help=True, rich_markup_mode=None)

Store = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="postgresql+psycopg://USER@HOST/DATABASE; default: the user's data folder"
    ),
]
User = Annotated[str | None, typer.Option(help="in whose name; default: RESIDSCOPE_USER, or the name on this machine")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead")]
Id = Annotated[str, typer.Argument(metavar="ID", help="a direction's id, or the beginning of it")]


@directions.command("list")
def list_directions(
    text: Annotated[str | None, typer.Argument(help="words of a name or description")] = None,
    of: Annotated[str | None, typer.Option("--of", metavar="USER", help="somebody's alone")] = None,
    model: Annotated[str | None, typer.Option(help="a model's name or hash")] = None,
    site: Annotated[str | None, typer.Option(help="resid_pre.6, or resid_pre for every layer")] = None,
    by_votes: Annotated[bool, typer.Option("--by-votes", help="the most liked first, not the newest")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    store: Store = None,
    json: Json = False,
) -> None:
    """Search what was saved."""
    from residscope.store import Search

    asked = Search(text, of, model, site, sort="votes" if by_votes else "newest", limit=limit)
    library = opened(store)
    page = library.search(asked)
    if json:
        return say(page.to_dict())
    for entry in page.entries:
        typer.echo(f"{entry.id[:8]}  {entry.votes:+4d}  {entry.site:<14} {entry.name}  ({entry.owner}, {entry.model})")
    if page.after is not None:
        typer.echo(f"... more: --limit, up to 100, or narrow the search ({limit} shown)")
    return None


@directions.command()
def show(id: Id, store: Store = None, json: Json = False) -> None:
    """One direction, and what people say of it."""
    library = opened(store)
    whole = library.get(whole_id(library, id))
    if json:
        return say(whole.to_dict())
    entry = whole.entry
    place = entry.site if entry.head is None else f"{entry.site} head {entry.head}"
    typer.echo(f"{entry.name}\n{entry.id}\n{place} ({entry.space}) of {entry.model} {entry.model_hash[:12]}")
    typer.echo(f"saved by {entry.owner} on {entry.created[:10]}")
    for description in whole.descriptions:
        score = "" if description.blind is None else f"  {blind_line(description.blind)}"
        typer.echo(
            f"\n{description.up} for, {description.down} against, by {description.author}{score}\n{description.text}"
        )
    for comment in whole.comments:
        typer.echo(f"\n{comment.author}, {comment.created[:10]}: {comment.text}")
    return None


@directions.command()
def export(
    id: Id, file: Annotated[Path, typer.Argument(help="the .safetensors file to write")], store: Store = None
) -> None:
    """Write a direction to one file: safetensors, with everything about it as JSON inside."""
    from residscope.drafts import replace_whole
    from residscope.endings import check_ending

    check_ending(file, "direction")
    library = opened(store)
    data = library.send(whole_id(library, id))
    replace_whole(file, lambda draft: draft.write_bytes(data))
    typer.echo(f"{file}: {len(data):,} bytes")


@directions.command("import")
def import_directions(
    files: Annotated[list[Path], typer.Argument(help="what `export` wrote")], user: User = None, store: Store = None
) -> None:
    """Take in exported directions; one whose numbers are here already is not taken twice."""
    from residscope.errors import FileNotThere

    library = opened(store)
    for file in files:
        if not file.is_file():
            raise FileNotThere("there is no such file", received=str(file))
        entry, new = library.receive(file.read_bytes(), user=me(user))
        typer.echo(f"{entry.id[:8]}  {entry.name}" + ("" if new else f"  (was here: {entry.owner} saved it)"))


@directions.command("rm")
def remove(id: Id, user: User = None, store: Store = None) -> None:
    """Delete a direction of yours; `residscope directions undo` brings it back for 30 days."""
    library = opened(store)
    id = whole_id(library, id)
    name = library.get(id).entry.name
    library.delete(id, user=me(user))
    typer.echo(f"deleted {name}")


@directions.command()
def undo(user: User = None, store: Store = None) -> None:
    """Take back your last change to the library."""
    kind, id = opened(store).undo(user=me(user))
    typer.echo(f"the {kind} {id} is as it was")


@store.command()
def backup(file: Annotated[Path, typer.Argument(help="the .zip file to write")], store: Store = None) -> None:
    """Write the whole library to one file, as it is at this moment."""
    from residscope.store.archive import backup

    made = backup(opened(store).database, file)
    typer.echo(f"{file}: {made.rows['directions']} directions, {made.tensors} tensors")


@store.command()
def restore(file: Annotated[Path, typer.Argument(help="what `backup` wrote")], store: Store = None) -> None:
    """Fill an empty library from a backup, of either kind of database."""
    from residscope.store.archive import restore

    made = restore(database(store, upgrade=False), file)
    typer.echo(f"restored {made.rows['directions']} directions, {made.tensors} tensors")


@store.command()
def check(store: Store = None, json: Json = False) -> None:
    """Read everything, and name what is damaged; exit code 1 if something is."""
    from dataclasses import asdict

    from residscope.store.upkeep import check

    health = check(opened(store).database)
    if json:
        say(asdict(health))
    else:
        for problem in health.problems:
            typer.echo(problem)
        typer.echo(f"{health.directions} directions, {health.tensors} tensors, {len(health.problems)} problems")
        if health.loose:
            typer.echo(f"{health.loose} files that nothing names: residscope store gc")
    raise typer.Exit(bool(health.problems))


@store.command()
def gc(
    older_than: Annotated[float, typer.Option(min=0, help="days since it was deleted")] = 30, store: Store = None
) -> None:
    """Delete for good what was deleted long ago, and tensors that nothing names."""
    from residscope.store.upkeep import gc

    freed = gc(opened(store).database, older_than=older_than)
    typer.echo(f"freed {freed.bytes / 1e6:,.1f} MB: {freed.directions} directions, {freed.tensors} tensors")


def blind_line(blind: "Mapping[str, Any]") -> str:
    if blind["mean"] is None:
        return "blind test by its author alone"
    low, high = blind["interval"]
    return f"blind test {blind['mean']:+.2f} [{low:+.2f}, {high:+.2f}] over {blind['people']}"


def opened(url: str | None) -> "Library":
    from residscope.store import open_library

    return open_library(url)


def database(url: str | None, *, upgrade: bool) -> "Database":
    from residscope.model.catalog import data_folder
    from residscope.store import Database

    return Database(url, folder=data_folder(), upgrade=upgrade)


def whole_id(library: "Library", beginning: str) -> str:
    """The whole id. Raises NotFound where none begins so, or several do."""
    from residscope.errors import NotFound

    ids = library.begin_with(beginning)
    if len(ids) != 1:
        failed = "several ids begin so" if ids else "no direction's id begins so"
        raise NotFound(failed, received=beginning, allowed=", ".join(ids) or None)
    return ids[0]


def me(user: str | None) -> str:
    return user or os.environ.get("RESIDSCOPE_USER") or getpass.getuser()


def say(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
