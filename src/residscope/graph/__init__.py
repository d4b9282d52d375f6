"""Causal graphs of a run: what each feature does to later ones, exactly, and whether the graph means anything."""

from residscope.graph import exchange, picture
from residscope.graph.aggregate import Graphs, aggregate, causal_graphs, difference
from residscope.graph.build import causal_graph
from residscope.graph.graph import Graph
from residscope.graph.parts import heads, neurons

__all__ = [
    "Graph", "Graphs", "aggregate", "causal_graph", "causal_graphs", "difference", "exchange", "heads", "neurons",
    "picture",
]  # fmt: skip
