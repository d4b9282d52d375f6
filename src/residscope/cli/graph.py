"""`residscope graph`: the causal graph of one prompt. Nothing heavy is imported before it runs."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residscope.cli.parts import Device, Dtype, bar, torch_dtype
from residscope.endings import check_ending
from residscope.errors import BadArguments, FileNotThere
from residscope.model.catalog import DEFAULT

if TYPE_CHECKING:
    from residscope.directions import Dictionary
    from residscope.engine.model import Model
    from residscope.graph import Graph

STOPPED = 130  # the exit code of what Ctrl-C ended
ROWS = 12
SHIPPED = "shipped"


def graph(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help='a text, or a file of a graph: "Copyright (C", some.json')
    ],
    dictionaries: Annotated[
        str, typer.Option(metavar="NAME,...", help="shipped, shipped/ID, files, folders, hub ids; parted by commas")
    ] = SHIPPED,
    out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help=".html, .svg, .png, .pdf, .json, .neuronpedia.json or .safetensors; several times"
        ),
    ] = None,
    ablate: Annotated[str, typer.Option(help="a feature at all positions at once, or at each by itself")] = "all",
    read: Annotated[str, typer.Option(help="features at the last position, or at all")] = "last",
    reach: Annotated[str, typer.Option(help="edges to the next dictionary, or to every later one")] = "next",
    method: Annotated[str, typer.Option(help="exact; or an estimate: gradient, integrated, attribution")] = "exact",
    exact_sample: Annotated[int, typer.Option(min=0, help="edges of an estimate that are measured exactly too")] = 64,
    scale: Annotated[float, typer.Option(help="what a feature is multiplied by")] = 0.0,
    errors: Annotated[bool, typer.Option(help="what each dictionary leaves out is a node too")] = True,
    edges: Annotated[int, typer.Option(min=1, help="kept between two dictionaries, the strongest")] = 2000,
    tokens: Annotated[int, typer.Option(min=0, max=50, help="next tokens")] = 5,
    cost: Annotated[bool, typer.Option("--cost", help="say what it costs, and stop")] = False,
    model: Annotated[str, typer.Option(help="a catalog name, a folder, or a hub repository")] = DEFAULT,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """The causal graph of a prompt: how far each feature raises each later one, and each the next token; exact unless said."""
    files = [Path(path).expanduser() for path in out or ()]
    for path in files:
        check_ending(path, "graph")
        if not path.parent.is_dir():
            raise FileNotThere("there is no such folder", received=str(path.parent), fix="make it first")
    if Path(prompt).suffix in (".json", ".pt", ".safetensors") and Path(prompt).is_file():
        from residscope.graph import Graph

        tell(Graph.load(prompt), files)
        return
    number_type = torch_dtype(dtype)
    import residscope as rs
    from residscope.errors import Cancelled, ResidscopeWarning
    from residscope.graph.build import causal_graph, check
    from residscope.graph.cost import cost_of
    from residscope.progress import heard_warnings

    with bar() as progress:
        loaded = rs.load(model, dtype=number_type, device=device, progress=progress)
        chosen = chosen_dictionaries(loaded, dictionaries, progress)
    asked: dict[str, Any] = {"ablate": ablate, "read": read, "reach": reach}
    check(loaded, prompt, chosen, **asked, method=method)
    exactly = cost_of(loaded, prompt, chosen, **asked, errors=errors, tokens=tokens)
    typer.echo(exactly if method == "exact" else f"an estimate, which costs less than: {exactly}", err=True)
    if cost:
        return
    made: Graph | None
    stopped = False
    with bar() as progress, heard_warnings() as heard, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidscopeWarning)  # said below, in words
        try:
            made = causal_graph(
                loaded,
                prompt,
                chosen,
                **asked,
                method=method,
                exact_sample=exact_sample,
                scale=scale,
                errors=errors,
                edges=edges,
                tokens=tokens,
                progress=progress,
            )
        except (Cancelled, KeyboardInterrupt) as stop:
            made, stopped = getattr(stop, "partial", None), True
    for warning in heard:
        print(f"residscope: graph warns: {warning}", file=sys.stderr)
    if made is not None:
        tell(made, files)
    if stopped:
        kept = (
            "nothing was finished" if made is None else "what was finished is above" + " and in the files" * bool(files)
        )
        print(f"residscope: the graph was stopped by Ctrl-C: {kept}", file=sys.stderr)
        raise typer.Exit(STOPPED)


def chosen_dictionaries(model: "Model", names: str, progress: Any) -> "dict[str, Dictionary]":
    """Dictionaries by their ids. Raises what `rs.sae.load` and `rs.directions.read` do; BadArguments: none, or one id twice."""
    from residscope import sae
    from residscope.cli.world import FileWorld
    from residscope.directions import Dictionary, new_id
    from residscope.world.loaded import Loaded

    world = FileWorld(Loaded.of(model))
    found: dict[str, Dictionary] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        file = Path(name.partition("#")[0]).expanduser()
        if name in world.loaded.dictionaries or (file.suffix == ".safetensors" and file.is_file()):
            loaded: Any = world.dictionary(name)
        else:
            loaded = sae.load(name, model, progress=progress)
        several = (
            {new_id(loaded): loaded} if isinstance(loaded, Dictionary) else {new_id(d): d for d in values_of(loaded)}
        )
        if twice := found.keys() & several.keys():
            raise BadArguments("a dictionary is named twice", received=", ".join(sorted(twice)), allowed="each once")
        found |= several
    if not found:
        raise BadArguments(
            "a graph is drawn between the features of dictionaries", received=repr(names), allowed="shipped, ..."
        )
    return found


def values_of(loaded: Any) -> "list[Dictionary]":
    """Of what `rs.sae.load` gives for several: a mapping, or the layers of cross-layer transcoders."""
    return [*(loaded.values() if hasattr(loaded, "values") else loaded)]


def tell(graph: "Graph", files: list[Path]) -> None:
    """The strongest edges and paths and what moves the next token; and the files."""
    from rich.console import Console
    from rich.table import Table

    from residscope.cli.made import cell_text
    from residscope.graph.paths import strongest_paths
    from residscope.graph.picture import tables_of
    from residscope.shown_tokens import visible
    from residscope.views import Table as TableView

    for path in files:
        graph.save(path)
    typer.echo(str(graph))
    if graph.note:
        typer.echo(graph.note)
    chances = zip(graph.tokens, graph.base.exp().tolist(), strict=True)
    if graph.tokens:
        typer.echo("next   " + "   ".join(f"{visible(token)} {p:.3f}" for token, p in chances))
    console = Console(highlight=False)
    for view in (one for one in tables_of(graph) if isinstance(one, TableView)):
        table = Table(box=None, pad_edge=False, title=view.title, title_justify="left", title_style="bold")
        for column in view.columns:
            table.add_column(visible(column) if column in graph.tokens else column, overflow="fold")
        for row in view.rows[:ROWS]:
            table.add_row(*map(cell_text, row))
        console.print(table, markup=False)
    for found in strongest_paths(graph, 5):
        typer.echo(f"path {found.share:6.1%}  {' → '.join(found.ids)} → {found.token!r}")
    for file in files:
        typer.echo(f"{file}: {file.stat().st_size:,} bytes", err=True)
