"""`residscope tokens`: how one or several models read a text; the tokenizers alone are loaded."""

from typing import TYPE_CHECKING, Annotated

import typer

from residscope.cli.parts import print_json
from residscope.model.catalog import DEFAULT

if TYPE_CHECKING:
    from residscope.views import Table


def tokens(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="the text, as it is")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="further models")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help=f"a model on this machine: --model a b compares [default: {DEFAULT}]")
    ] = None,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS in front [default: as each model has it]")
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="the tables as CSV; -: to the screen")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """A text's tokens: ids, bytes, words, variants; of several models aligned by character."""
    from residscope.cli.made import as_json
    from residscope.drafts import replace_whole
    from residscope.methods.reading.token_table import token_table

    first, *others = [*(model or []), *(more or [])] or [DEFAULT]
    made = token_table(first, text, others=others, bos=bos)
    if csv == "-":
        typer.echo(made.to_dataframe().to_csv(index=False), nl=False)
    elif csv is not None:
        told = made.to_dataframe().to_csv(index=False)
        replace_whole(csv, lambda draft: draft.write_text(told, encoding="utf-8"))
    elif json:
        print_json(as_json(made))
    else:
        for table in [*map(made.table, range(len(made.reads))), *map(made.aligned, range(1, len(made.reads)))]:
            _print(table)


def _print(table: "Table") -> None:
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, pad_edge=False, title=Text(table.title), title_justify="left", caption=Text(table.note))
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    Console(highlight=False).print(drawn, markup=False)
