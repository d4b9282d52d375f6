"""Views: pictures as plain data, of a closed set of kinds; the page draws them, `save_html` freezes them into one file.

    from residscope import views
    views.save_html(views.HeatMap([[0.5, -1.0]], ["23"], ["0", "1"], unit="logits"), "heads.html")

Nothing here needs torch: lists, numpy arrays and tensors are taken alike.
"""

from residscope.views.contexts import Context, Contexts
from residscope.views.figures import figure, save_picture
from residscope.views.html import save_html, to_html
from residscope.views.network import Network, NetworkEdge, NetworkNode
from residscope.views.pictures import Curve, HeatMap, Histogram, Line, Pattern, Reference, Scatter, TokenStrip
from residscope.views.view import Part, View
from residscope.views.words import Card, Grid, Table, Text

__all__ = [
    "Card", "Context", "Contexts", "Curve", "Grid", "HeatMap", "Histogram", "Line", "Network", "NetworkEdge", "NetworkNode",
    "Part", "Pattern", "Reference", "Scatter", "Table",
    "Text", "TokenStrip", "View", "figure", "save_html", "save_picture", "to_html",
]  # fmt: skip
