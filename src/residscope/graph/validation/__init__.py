"""Whether a causal graph means anything: what its nodes do together, against controls, in other texts, in other amounts."""

from residscope.graph.validation.report import Validation
from residscope.graph.validation.validate import validate_graph

__all__ = ["Validation", "validate_graph"]
