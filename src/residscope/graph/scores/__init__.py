"""Why a head looks there: one attention score as a sum over pairs of what was written into the stream."""

from residscope.graph.scores.build import attribute_scores, score_attribution
from residscope.graph.scores.report import ScoreAttribution

__all__ = ["ScoreAttribution", "attribute_scores", "score_attribution"]
