"""A whole dictionary's feature pages as HTML that needs no server: a folder, or one file of them all."""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

from residscope.directions import Dictionary
from residscope.drafts import drafts, replace_whole, sweep
from residscope.engine.model import Model
from residscope.errors import FileNotThere
from residscope.features.atlas import Atlas
from residscope.features.feature_page import page
from residscope.progress import Cancel, Progress, stage
from residscope.views import to_html

INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px system-ui,sans-serif;margin:24px;max-width:900px}}table{{border-collapse:collapse}}
td,th{{padding:2px 14px 2px 0;text-align:right;border-bottom:1px solid #8884}}
td:first-child,th:first-child{{text-align:left}}</style>
<h1>{title}</h1><p>{about}</p><table><tr><th>feature<th>share of tokens<th>highest</tr>
{rows}
</table></html>
"""


def export(
    model: Model,
    atlas: Atlas,
    folder: str | Path,
    dictionary: Dictionary | None = None,
    *,
    indices: Sequence[int] | None = None,
    effects: bool = False,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Path:
    """One page for each feature (or for these), and an index of them, as HTML files; answers the index.

    folder: whose name ends in `.zip` is one file of them all, which is there when it is whole; then it is the answer.

    Raises:
        FileNotThere: no such folder above. DirectionError, WrongModel: as `page` does. Cancelled: the pages so far stay,
        and there is no index; of a `.zip` nothing stays.
    """
    folder = Path(folder).expanduser()
    if not folder.parent.is_dir():
        raise FileNotThere("there is no such folder", received=str(folder.parent), fix="make it first")
    chosen = range(len(atlas)) if indices is None else indices
    rows = []
    with _written(folder) as write, stage("Writing pages", len(chosen), progress, cancel) as tell:
        for done, index in enumerate(chosen, 1):
            made = page(model, atlas, index, dictionary, effects=effects, progress=False, cancel=cancel)
            write(f"{index}.html", to_html(made.view(), title=made.address))
            cells = f"{made.density:.4%}<td>{made.highest:.4g}"
            rows.append(f'<tr><td><a href="{index}.html">{escape(made.label)}</a><td>{cells}</tr>')
            tell(done)
        write("index.html", _index(model, atlas, rows))
    return folder if folder.suffix == ".zip" else folder / "index.html"


class Cost(NamedTuple):
    """What an export of all pages takes, about: by one page, made and measured."""

    pages: int
    seconds: float
    bytes: int


def cost(model: Model, atlas: Atlas, dictionary: Dictionary | None = None) -> Cost:
    """What a `.zip` of all pages takes, without what taking features out does. Raises WrongModel."""
    index = int(atlas.highest.nan_to_num(float("-inf")).argmax())
    began = time.perf_counter()
    made = page(model, atlas, index, dictionary, effects=False, progress=False)
    packed = len(zlib.compress(to_html(made.view(), title=made.address).encode()))
    return Cost(len(atlas), (time.perf_counter() - began) * len(atlas), packed * len(atlas))


def _index(model: Model, atlas: Atlas, rows: Sequence[str]) -> str:
    title = f"{atlas.of} at {atlas.place}"
    read = f"{atlas.firing.count:,} tokens of {atlas.provenance.get('corpus', 'texts')}"
    about = f"{model.name}; {read}; {atlas.dead:.1%} never active"
    return INDEX.format(title=escape(title), about=escape(about), rows="\n".join(rows))


@contextmanager
def _written(folder: Path) -> Iterator[Callable[[str, str], None]]:
    """Writes a file of a name and a text: each whole in a folder, or all of them in one `.zip`."""
    if folder.suffix != ".zip":
        folder.mkdir(exist_ok=True)
        yield lambda name, text: replace_whole(folder / name, lambda path: path.write_text(text, encoding="utf-8"))
        return
    sweep(folder.parent)
    with drafts(folder.parent) as made:
        with ZipFile(made / folder.name, "w", ZIP_DEFLATED) as packed:
            yield lambda name, text: packed.writestr(f"{folder.stem}/{name}", text)
        (made / folder.name).replace(folder)
