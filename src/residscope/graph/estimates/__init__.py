"""Causal graphs by gradients: labelled as estimates, with exact values of a sample of their edges beside them."""

from residscope.graph.estimates.build import estimated

__all__ = ["estimated"]
