"""A whole dictionary's feature pages as a folder of HTML that needs no server."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import FileNotThere
from residscope.features.atlas import Atlas
from residscope.features.feature_page import page
from residscope.files import replace_whole
from residscope.progress import Cancel, Progress, stage
from residscope.views import save_html

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

    Raises:
        FileNotThere: no such folder above. DirectionError, WrongModel: as `page` does. Cancelled: the pages so far stay,
        and there is no index.
    """
    folder = Path(folder).expanduser()
    if not folder.parent.is_dir():
        raise FileNotThere("there is no such folder", received=str(folder.parent), fix="make it first")
    folder.mkdir(exist_ok=True)
    chosen = range(len(atlas)) if indices is None else indices
    rows = []
    with stage("Writing pages", len(chosen), progress, cancel) as tell:
        for done, index in enumerate(chosen, 1):
            made = page(model, atlas, index, dictionary, effects=effects, progress=False, cancel=cancel)
            save_html(made.view(), folder / f"{index}.html", title=made.address)
            cells = f"{made.density:.4%}<td>{made.highest:.4g}"
            rows.append(f'<tr><td><a href="{index}.html">{escape(made.label)}</a><td>{cells}</tr>')
            tell(done)
    title = f"{atlas.of} at {atlas.place}"
    read = f"{atlas.firing.count:,} tokens of {atlas.provenance.get('corpus', 'texts')}"
    about = f"{model.name}; {read}; {atlas.dead:.1%} never active"
    whole = INDEX.format(title=escape(title), about=escape(about), rows="\n".join(rows))
    replace_whole(folder / "index.html", lambda path: path.write_text(whole, encoding="utf-8"))
    return folder / "index.html"
