"""`residscope reproduce`. Nothing heavy is imported before a command needs it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from residscope.cli.parts import Device, Dtype, bar, torch_dtype
from residscope.endings import check_ending
from residscope.model.catalog import DEFAULT

if TYPE_CHECKING:
    from residscope.views import Card, View

reproduce = typer.Typer(help="Run a published claim again, into one page.", no_args_is_help=True, rich_markup_mode=None)

ModelOption = Annotated[str, typer.Option(help="a catalog name, a folder, or a hub repository")]
Out = Annotated[str, typer.Option(help="the page to write")]


@reproduce.command()
def lrqp(
    model: ModelOption = DEFAULT,
    prompts: Annotated[
        int | None, typer.Option(min=16, help="IOI prompts, half of them held out (default: 640)")
    ] = None,
    out: Out = "lrqp.html",
    quick: Annotated[bool, typer.Option("--quick", help="few prompts and layers: does it run at all?")] = False,
    seed: Annotated[int, typer.Option(help="of the prompts, the split and the controls")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Intervening in the Residual Stream (2023): probes, LRQP, controls, what it does downstream, and a verdict per claim."""
    from dataclasses import replace

    import residscope as rs
    from residscope.reproduce.lrqp.claims import cards
    from residscope.reproduce.lrqp.page import page
    from residscope.reproduce.lrqp.study import Size, lrqp_study

    check_ending(out, "view")
    size = Size.quick() if quick else Size()
    size = size if prompts is None else replace(size, prompts=prompts)
    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
        study = lrqp_study(loaded, size=size, seed=seed, progress=progress)
    title = f"Intervening in the Residual Stream: {loaded.name}"
    tell(cards(study), page(study), out, title=title, seconds=study.provenance["seconds"])


@reproduce.command()
def viewer(
    model: ModelOption = DEFAULT,
    text: Annotated[
        str, typer.Option(help="python-docs, english, a .txt or .jsonl file, or hub:org/name")
    ] = "python-docs",
    out: Out = "viewer.html",
    quick: Annotated[bool, typer.Option("--quick", help="little text, few components: does it run at all?")] = False,
    seed: Annotated[int, typer.Option(help="of the split of the text and of the random directions")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """The Residual Stream Viewer's tour: which component holds the position, which parts auxiliary verbs from proper nouns."""
    import residscope as rs
    from residscope.reproduce.viewer.claims import cards
    from residscope.reproduce.viewer.page import page
    from residscope.reproduce.viewer.study import Size, viewer_study

    check_ending(out, "view")
    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
        study = viewer_study(loaded, text, size=Size.quick() if quick else Size(), seed=seed, progress=progress)
    title = f"The Residual Stream Viewer's tour: {loaded.name}"
    tell(cards(study), page(study), out, title=title, seconds=study.provenance["seconds"])


@reproduce.command()
def graph(
    model: ModelOption = DEFAULT,
    dictionaries: Annotated[
        str, typer.Option(help="of the stream, in one folder, file or hub repository; those that ship, unless said")
    ] = "shipped",
    text: Annotated[str, typer.Option(help="where random texts are from, as for viewer")] = "english",
    out: Out = "graph.html",
    quick: Annotated[bool, typer.Option("--quick", help="few controls and texts: does it run at all?")] = False,
    seed: Annotated[int, typer.Option(help="of the random circuits and texts")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Causal Graphs of GPT-2-Small's Residual Stream (2024): the four contexts, every table, controls, a verdict per claim."""
    import residscope as rs
    from residscope.reproduce.graph.claims import cards
    from residscope.reproduce.graph.page import page
    from residscope.reproduce.graph.study import Size, graph_study, of_stream

    check_ending(out, "view")
    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
        used = of_stream(rs.sae.load(dictionaries, loaded))
        study = graph_study(loaded, used, text, size=Size.quick() if quick else Size(), seed=seed, progress=progress)
    title = f"Causal Graphs of the Residual Stream: {loaded.name}"
    tell(cards(study), page(study), out, title=title, seconds=study.provenance["seconds"])


@reproduce.command()
def ioi(
    model: ModelOption = DEFAULT,
    out: Out = "ioi.html",
    quick: Annotated[bool, typer.Option("--quick", help="few prompts, near layers: does it run at all?")] = False,
    seed: Annotated[int, typer.Option(help="of the prompts and of the random heads")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Interpretability in the Wild (2022): the circuit of IOI, from the logits back, controls, and a verdict per claim."""
    import residscope as rs
    from residscope.reproduce.ioi.claims import cards
    from residscope.reproduce.ioi.page import page
    from residscope.reproduce.ioi.study import Size, ioi_study

    check_ending(out, "view")
    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
        study = ioi_study(loaded, size=Size.quick() if quick else Size(), seed=seed, progress=progress)
    title = f"Interpretability in the Wild: {loaded.name}"
    tell(cards(study), page(study), out, title=title, seconds=study.provenance["seconds"])


def tell(cards: "Sequence[Card]", page: "Sequence[View]", out: str, *, title: str, seconds: float) -> None:
    """Print the verdicts, write the page, and say where."""
    from residscope.views import save_html

    for card in cards:
        fields = "; ".join(f"{name}: {value}" for name, value in card.fields.items())
        typer.echo(f"{card.verdict or '-':<7} {card.title}\n{'':8}{fields}")
    path = save_html(page, out, title=title)
    typer.echo(f"\n{path} ({seconds:.0f} s)")
