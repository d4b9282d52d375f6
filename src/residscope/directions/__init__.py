"""Directions and dictionaries: everything worth knowing about the stream is a direction in it."""

from residscope.directions.dictionary import LABELS, Dictionary
from residscope.directions.direction import SPACES, Direction, place
from residscope.directions.files import read, save, shipped, signature
from residscope.directions.unembedding import logit_diff, unembedding, unembedding_rows

__all__ = [
    "LABELS", "SPACES", "Dictionary", "Direction", "logit_diff", "place", "read", "save", "shipped", "signature", "unembedding",
    "unembedding_rows",
]  # fmt: skip
