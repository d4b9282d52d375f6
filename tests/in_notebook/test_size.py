"""A notebook full of pictures can still be sent and kept under version control."""

from pathlib import Path
from typing import Any

import nbformat

import residscope as rs
from residscope import views
from residscope.notebook import still

MOST = 10_000_000  # bytes
LONG = "When John and Mary went to the store, John gave a bottle of milk to Mary. " * 10


def test_fifty_cells_with_the_stream_of_a_long_prompt_stay_small(smollm2: Any, tmp_path: Path) -> None:
    wb = rs.workbench(smollm2, prompt=LONG)
    assert wb.wait(120)
    assert len(wb.session.state.prompt.tokens) > still.MOST_TOKENS
    assert saved(tmp_path / "stills.ipynb", still.html(wb.session, "x")) < MOST


def test_fifty_cells_with_a_picture_of_every_head_stay_small(smollm2: Any, tmp_path: Path) -> None:
    result = rs.direct_attribution(smollm2, "The Eiffel Tower is in", rs.logit_diff(" Paris", " Rome"))
    assert saved(tmp_path / "items.ipynb", result._repr_html_()) < MOST
    rows = [[round(layer / (pos + 1.5), 3) for pos in range(256)] for layer in range(30)]
    map_of_256 = views.HeatMap(rows, [*map(str, range(30))], [f"{i} token" for i in range(256)], title="stream")
    assert saved(tmp_path / "long.ipynb", map_of_256._repr_html_()) < MOST


def saved(path: Path, html: str) -> int:
    """Bytes of a notebook whose fifty cells each show it."""
    shown = nbformat.v4.new_output("display_data", {"text/html": html, "text/plain": "<Workbench>"})
    cells = [nbformat.v4.new_code_cell("wb", outputs=[shown]) for _ in range(50)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path.stat().st_size
