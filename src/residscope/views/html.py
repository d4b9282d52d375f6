"""A frozen page: views and the code that draws them in one HTML file that asks for nothing else."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from residscope.drafts import replace_whole
from residscope.endings import check_ending
from residscope.errors import BadView, NoPage
from residscope.views.view import SHOWN, WRITERS, View

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, marks that reorder the text around them, and halves of characters."""

_HEIGHTS = {"card": 180, "grid": 720, "heat_map": 680, "network": 640, "text": 180, "token_strip": 200}
"""A notebook's frame in pixels, by kind; what is taller scrolls."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Residscope {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-{digest}'; \
style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div id="app"></div>
<noscript>These pictures are drawn by JavaScript; please allow it for this file.</noscript>
<script type="application/json" id="views">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def to_html(views: View | Sequence[View], *, title: str = "") -> str:
    """The page as a string: plain ASCII data, one script, one style, and a policy that allows nothing else."""
    listed = [views] if isinstance(views, View) else list(views)
    for view in listed:
        if not isinstance(view, View):
            raise BadView(
                "the page cannot hold this", received=type(view).__name__, allowed="views of residscope.views"
            )
    title = title or next((own_title for view in listed if (own_title := getattr(view, "title", ""))), "Residscope")
    plain = {"title": title, "views": [view.to_dict() for view in listed]}
    script = _built("frozen.js").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return _PAGE.format(
        version=version("residscope"),
        digest=b64encode(sha256(script.encode()).digest()).decode(),
        title=escape(_INVISIBLE.sub("\ufffd", title)),
        style=_built("frozen.css").replace("</", "<\\/"),
        data=json.dumps(plain, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        script=script,
    )


def save_html(views: View | Sequence[View], path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Writes the page, whole or not at all; answers where. Raises WrongEnding where the name does not end in .html."""
    check_ending(path, "view")
    page, path = to_html(views, title=title), Path(path).expanduser()
    replace_whole(path, lambda draft: draft.write_text(page, encoding="utf-8", newline="\n"))
    return path


def in_notebook(view: View) -> str:
    """A frame of its own, so that neither page's style reaches the other's."""
    page = escape(to_html(view), quote=True)
    return (
        f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" title="Residscope" '
        f'style="width:100%;height:{_HEIGHTS.get(view.kind, 420)}px;border:0"></iframe>'
    )


def _built(name: str) -> str:
    file = files("residscope") / "_ui" / name
    if not file.is_file():
        raise NoPage(
            "the code that draws views is not built into this installation",
            received=str(file),
            fix="in a checkout: pip install -e . again with Node 20.19 or newer",
        )
    return file.read_text(encoding="utf-8")


WRITERS[".html"] = save_html
SHOWN.append(in_notebook)
