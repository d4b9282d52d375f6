"""A graph as a page or a figure that stands by itself: its nodes lead to the workbench on this machine."""

from pathlib import Path

from residscope.graph.graph import Graph
from residscope.graph.shown.picture import picture
from residscope.views import save_html, save_picture

HOME = "http://127.0.0.1:8765/"  # where `residscope open` is, unless told otherwise


def write(graph: Graph, path: Path) -> None:
    """The picture alone as a figure; with its tables as a page."""
    page = path.suffix.lower() == ".html"
    (save_html if page else save_picture)(picture(graph, home=HOME, tables=page), path)
