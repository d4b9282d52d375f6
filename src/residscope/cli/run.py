"""`residscope run`: a command for each method, made from the manifest. Nothing heavy is imported before a method runs."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from residscope.cli.outputs import Outputs
from residscope.cli.words import COMMON, Taken, option
from residscope.errors import UnknownMethod
from residscope.model.catalog import DEFAULT


def schemas() -> dict[str, dict[str, Any]]:
    """What each method is asked for, by its id. Plugins are imported, where there are any; nothing else is."""
    from importlib.metadata import entry_points

    from residscope import manifest

    own = {schema["id"]: schema for schema in manifest.read()}
    if any(group.startswith("residscope.") for group in entry_points().groups):
        own |= {id: {**method.schema()} for id, method in manifest.all_methods().items() if id not in own}
    return dict(sorted(own.items()))


def schema_of(id: str) -> dict[str, Any]:
    """One method's. Raises UnknownMethod."""
    from residscope import manifest

    own = next((schema for schema in manifest.read() if schema["id"] == id), None)
    known = {id: own} if own is not None else schemas()
    if id not in known:
        from difflib import get_close_matches

        near = get_close_matches(id, known, n=1)
        fix = f"residscope run {near[0]}" if near else "residscope methods lists them"
        raise UnknownMethod("there is no such method", received=id[:100], allowed=", ".join(known), fix=fix)
    return known[id]


class Methods(TyperGroup):
    """The group whose commands are the methods."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*schemas()]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Their titles, without making each one's command."""
        with formatter.section("Commands"):
            formatter.write_dl([(id, schema["title"]) for id, schema in schemas().items()])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command_of(schema_of(cmd_name))


run = typer.Typer(
    cls=Methods,
    help="Run a method on a model. `residscope run ID --help` says what it takes; `residscope methods` lists them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@run.callback()
def _group() -> None:  # a group without commands of its own needs a callback
    pass


class MethodCommand(TyperCommand):
    """One method's command: what is typed is sorted by what the method's fields take, before anything is imported."""

    taken: Taken

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = args[: args.index("--")] if "--" in args else args
        if "--help" in typed:
            return list(super().parse_args(ctx, ["--help"]))
        ctx.obj = self.taken.sort(args)
        return []

    def invoke(self, ctx: Any) -> Any:
        return call(self.taken.id, ctx.obj)


def command_of(schema: dict[str, Any]) -> Any:
    """The command of a method, from its schema."""
    taken = Taken.of(schema)
    parameters: list[inspect.Parameter] = []
    for name, part in schema["properties"].items():
        here = option(name) in taken.slots
        about = _about(name, part, required=not here and name in schema["required"], shaped=here)
        metavar = name.upper() if here else part["example"]
        parameters.append(_parameter(taken.called(name), metavar, about, part, positional=here))
    for name, (metavar, about) in COMMON.items():
        parameters.append(_parameter(option(name), metavar, about, {"words": 1}, positional=False))
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    def shown_in_help(**words: Any) -> None: ...

    shown_in_help.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    shown_in_help.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(schema["id"], cls=MethodCommand, help=f"{schema['title']}. {schema['about']}")(shown_in_help)
    command: Any = typer.main.get_command(app)
    command.taken = taken
    return command


def _parameter(called: str, metavar: str, about: str, part: dict[str, Any], *, positional: bool) -> inspect.Parameter:
    """One line of the help page."""
    flag = part["words"] == 0
    if positional:
        shown: Any = Annotated[str, typer.Argument(metavar=metavar, help=about)]
    elif flag:
        shown = Annotated[bool, typer.Option(called, help=about)]
    else:
        shown = Annotated[str | None, typer.Option(called, metavar=metavar, help=about, show_default=False)]
    default: Any = inspect.Parameter.empty if positional else False if flag else None
    name = "arg_" + called.strip("-").replace("-", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shown)


def _about(name: str, part: dict[str, Any], *, required: bool, shaped: bool) -> str:
    """A help line: what it is, what it may be, what it is unless said."""
    title, default = part.get("title", ""), part.get("default")
    words = [part.get("description") or (title if title != name.replace("_", " ") else "")]
    words.append(part["example"] if shaped and part["example"] != part["kind"].upper() else "")
    words.append(f"[default: {_plain(default)}]" if default is not None and part["words"] else "")
    for when, word in (("when", "with"), ("unless", "without")):
        if part.get(when):
            words.append(f"[{word} {option(part[when][0])} {' or '.join(part[when][1])}]")
    words.append("[required]" if required else "")
    return "  ".join(word for word in words if word)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def call(id: str, words: dict[str, Sequence[str]]) -> None:
    """Run a method with what was typed, and write or show what it makes."""
    from residscope.cli.call import run_method

    common = {name: words.pop(option(name))[0] for name in COMMON if option(name) in words}
    outputs = Outputs(*(common.pop(name, None) for name in ("json", "csv", "html", "save")))
    outputs.check()
    run_method(id, words, outputs, **{"model": DEFAULT, "dtype": "float32", "device": "cpu", **common})
