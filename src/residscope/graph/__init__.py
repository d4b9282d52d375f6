"""Causal graphs of a run: what each feature does to later ones, exactly, and whether the graph means anything."""

from residscope.graph import exchange, picture
from residscope.graph.build import causal_graph
from residscope.graph.graph import Graph

__all__ = ["Graph", "causal_graph", "exchange", "picture"]
