"""The command line. Nothing heavy is imported before a command needs it."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residscope.cli import families as cli_families
from residscope.cli import fit as cli_fit
from residscope.cli import graph as cli_graph
from residscope.cli import library as cli_library
from residscope.cli import lists as cli_lists
from residscope.cli import reproduce as cli_reproduce
from residscope.cli import run as cli_run
from residscope.cli import survey as cli_survey
from residscope.cli import tokens as cli_tokens
from residscope.cli.parts import Device, Dtype, bar, print_json, token_of, torch_dtype
from residscope.errors import BadEdit, DirectionError, ResidscopeError, UnknownLayer, WrongModel
from residscope.model.catalog import CATALOG, DEFAULT
from residscope.shown_tokens import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

BLUE_TO_RED = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f5", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")
CLIP = 0.985  # the share of cells that the colour scale covers

app = typer.Typer(
    help="A workbench for the residual stream of transformer language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="The models of the catalog and the cache.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")
cli_library.directions.command("fit", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
    cli_fit.fit
)
app.add_typer(cli_run.run, name="run")
app.add_typer(cli_families.families, name="families")
app.command("methods")(cli_lists.methods)
app.command("edits")(cli_lists.edits)
app.command("glossary")(cli_lists.glossary)
app.command("tokens")(cli_tokens.tokens)
app.command("graph")(cli_graph.graph)
app.command(
    "survey", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)(cli_survey.survey)
app.add_typer(cli_library.directions, name="directions")
app.add_typer(cli_library.store, name="store")
app.add_typer(cli_reproduce.reproduce, name="reproduce")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="a catalog name, a folder, or a hub repository")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    if debug:
        os.environ["RESIDSCOPE_DEBUG"] = "1"


@app.command("open")
def open_page(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"a catalog name, a folder, or a hub repository [default: the last on this port, else {DEFAULT}]",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port")] = 8765,
    host: Annotated[str, typer.Option(help="the address to listen on; 0.0.0.0: of every network")] = "127.0.0.1",
    behind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="where a forwarder or proxy has the page, such as https://hub.org/proxy/8765/"
        ),
    ] = None,
    dictionaries: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="where others may open dictionaries of this machine's"),
    ] = None,
    naming_endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar='"URL MODEL KEY"', help="a service that others may name features by; its key's variable"),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="only print the address")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    store: cli_library.Store = None,
) -> None:
    """Open the workbench on a model."""
    from residscope.server import serve

    torch_dtype(dtype)
    serve(
        model,
        host=host,
        port=port,
        open_browser=not no_browser,
        dtype=dtype,
        device=device,
        store=store,
        behind=behind or (),
        dictionaries=dictionaries or (),
        naming=naming_endpoint or (),
    )


@app.command("look")
def look_in_terminal(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    model: Annotated[str, typer.Option(help="a catalog name, a folder, or a hub repository")] = DEFAULT,
    direction: Annotated[
        str | None, typer.Option(help='"PC 7@resid_post.23" or "logit: Mary, John"; default: the two likeliest tokens')
    ] = None,
    layers: Annotated[str | None, typer.Option(help='which rows: "0-5,29" (default: all)')] = None,
    json: Annotated[bool, typer.Option("--json", help="print the numbers instead")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """The residual stream of a prompt in the terminal: layers x tokens, coloured by a direction."""
    import residscope as rs

    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
    rows = chosen_rows(layers, loaded.n_layers)
    recording = loaded.run(prompt, capture=["resid_pre.0", "resid_post"])
    top = recording.top(5)
    name, values = read_rows(loaded, recording, rows, direction=direction, top=top)
    texts = loaded.token_texts(recording.tokens[0].tolist())
    labels = ["embed" if row == 0 else f"resid_post.{row - 1}" for row in rows]
    if json:
        following = [{"text": text, "id": index, "p": p} for text, index, p in top]
        print_json({"tokens": texts, "rows": labels, "direction": name, "values": values, "next": following})
        return
    from rich.console import Console

    console = Console(highlight=False)
    draw(console, texts, [row - 1 for row in rows], values=values, name=name)
    likeliest = "   ".join(f"{visible(text)} {p:.3f}" for text, _, p in top)
    console.print(f"next   {likeliest}", markup=False, soft_wrap=True)


@models.command("list")
def list_models(json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """The catalog, and what of it is in the cache."""
    from residscope.model import weights

    listed = [(entry, weights.cached(name), weights.size(name)) for name, entry in CATALOG.items()]
    if json:
        print_json(
            [{"name": entry.name, "about": entry.about, "cached": cached, "bytes": n} for entry, cached, n in listed]
        )
        return
    for entry, cached, n in listed:
        size = f"{n / 1e6:,.0f} MB" if cached else "-"
        typer.echo(f"{entry.name:<18} {size:>9}  {entry.about}")
    typer.echo("\nany folder or hub repository (owner/name) of a known family will do as well")


@models.command()
def pull(
    model: ModelName, revision: Annotated[str | None, typer.Option(help="a branch, tag or commit")] = None
) -> None:
    """Fetch a model into the cache (a catalog model is converted once)."""
    from residscope.model import weights

    with bar() as progress:
        source = weights.resolve(model, revision=revision, progress=progress)
    typer.echo(f"{source.name} is in {source.path}")


@models.command("rm")
def remove(model: ModelName) -> None:
    """Delete a model, and unfinished downloads of it, from the cache."""
    from residscope.model import weights

    typer.echo(f"freed {weights.remove(model) / 1e6:,.0f} MB")


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="the model to check")] = DEFAULT,
    port: Annotated[int, typer.Option(help="the port the workbench would use")] = 8765,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Check this installation, and say how to mend what is wrong."""
    from dataclasses import asdict

    from residscope.doctor import examine

    checks = []
    for check in examine(model, port=port):
        checks.append(check)
        if not json:
            typer.secho(f"{check.state:<5}", fg={"ok": "green", "warn": "yellow", "fail": "red"}[check.state], nl=False)
            typer.echo(f"{check.name:<12} {check.found}" + (f"\n{'':<18}to mend: {check.mend}" if check.mend else ""))
    if json:
        print_json([asdict(check) for check in checks])
    raise typer.Exit(any(check.state == "fail" for check in checks))


def main() -> None:
    """The entry point: an error of Residscope's own is two lines on stderr and exit code 2, never a traceback."""
    try:
        app(prog_name="residscope")
    except ResidscopeError as error:
        if os.environ.get("RESIDSCOPE_DEBUG"):
            raise
        print(f"residscope: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `residscope look ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def chosen_rows(layers: str | None, n_layers: int) -> list[int]:
    """Rows to show, the last layer first; row 0 is the embedding, row l + 1 is `resid_post.l`."""
    if layers is None:
        return list(range(n_layers, -1, -1))
    rows = set()
    for part in layers.replace("embed", "-1").split(","):
        first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part.strip(), "", "")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 0, n_layers
        if not -1 <= low <= high < n_layers:
            raise UnknownLayer(
                "no such layers", received=layers, allowed=f'"embed", 0 to {n_layers - 1}, as in "0-5,29"'
            )
        rows |= set(range(low + 1, high + 2))
    return sorted(rows, reverse=True)


def read_rows(
    model: Any, recording: Any, rows: list[int], *, direction: str | None, top: list[tuple[str, int, float]]
) -> tuple[str, list[list[float]]]:
    """The direction's name, and its coordinate at each row and token. `top` gives the default direction's tokens.

    A principal component is centred on each row's own data-set mean where that is known.
    """
    from dataclasses import replace

    from residscope.directions import logit_diff, shipped

    means = {}
    kind, _, rest = (direction or "").partition(":")
    if direction is None:
        chosen = logit_diff(model, top[0][1], top[1][1], before_cap=True)
    elif kind.strip() == "logit" and rest.count(",") == 1:
        chosen = logit_diff(model, *(token_of(model, token) for token in rest.split(",")), before_cap=True)
    elif direction.startswith("PC ") and "@" in direction:
        index, _, site = direction.removeprefix("PC ").partition("@")
        components = shipped(model)
        if site not in components:
            raise WrongModel(
                f"no components for {model.name} there", received=site, allowed=", ".join(components) or "none here"
            )
        if not index.strip().isdigit():
            raise DirectionError("a component is counted from zero", received=direction, allowed='"PC 0@resid_post.23"')
        chosen = components[site][int(index)]
        means = {name: float(chosen.read @ components[name].mean) for name in components}
    else:
        raise BadEdit("no such direction", received=direction, allowed='"PC 7@resid_post.23" or "logit: Mary, John"')
    values = []
    for row in rows:
        site = "resid_pre.0" if row == 0 else f"resid_post.{row - 1}"
        here = replace(chosen, offset=means.get(site, 0.0)) if means else chosen
        values.append(here.project(recording[site][0], model=model).tolist())
    return f"{chosen.name}" + (f"@{chosen.site}" if means else ""), values


def draw(console: "Console", tokens: list[str], layers: list[int], *, values: list[list[float]], name: str) -> None:
    """A block of cells per token; where there is no colour, digits from -9 to 9.

    The scale leaves out position 0 and the embedding, whose coordinates may be a hundred times the others'.
    """
    from rich.text import Text

    inside = [line[1:] for layer, line in zip(layers, values, strict=True) if layer >= 0 and len(tokens) > 1]
    rest = sorted(abs(value) for line in inside or values for value in line)
    colour = console.color_system is not None and not console.no_color
    scale = rest[min(len(rest) - 1, int(CLIP * len(rest)))] or 1.0
    width = max(4, min(8, max(map(len, map(visible, tokens))) + 1))
    fit = max(1, (console.width - 6) // width)
    for start in range(0, len(tokens), fit):
        block = range(start, min(start + fit, len(tokens)))
        heads = "".join(f"{visible(tokens[pos])[: width - 1]:<{width}}" for pos in block)
        console.print(Text(f"{'pos':<6}" + "".join(f"{pos:<{width}}" for pos in block), style="dim"), soft_wrap=True)
        console.print(Text(" " * 6 + heads), soft_wrap=True)
        for layer, line in zip(layers, values, strict=True):
            text = Text(f"{'emb' if layer < 0 else layer:>4}  ")
            for pos in block:
                text.append_text(cell(line[pos] / scale, width, outside=pos == 0, colour=colour))
            console.print(text, soft_wrap=True)
        console.print()
    legend = Text(f"{name}   {-scale:.3g} ")
    for step in range(-4, 5):
        legend.append_text(cell(step / 4, 2, outside=False, colour=colour))
    console.print(legend.append(f" {scale:+.3g}   ! beyond   scale without position 0 and emb"), soft_wrap=True)


def cell(share: float, width: int, *, outside: bool, colour: bool) -> "Text":
    from rich.text import Text

    mark = "!" if abs(share) > 1 else "x" if share != share else " "
    clamped = max(-1.0, min(1.0, share)) if share == share else 0.0
    if not colour:
        digit = round(9 * clamped)
        shown = f"{digit:+d}" if digit else "."
        return Text(f"{shown}{mark.strip()}".ljust(width))
    at = (clamped + 1) * 4
    low = min(int(at), 7)
    near, far = ([int(BLUE_TO_RED[i][k : k + 2], 16) for k in (1, 3, 5)] for i in (low, low + 1))
    red, green, blue = (round(a + (b - a) * (at - low)) for a, b in zip(near, far, strict=True))
    return Text(("░" if outside else mark).ljust(width), style=f"#000000 on #{red:02x}{green:02x}{blue:02x}")
