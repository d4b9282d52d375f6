"""Directions and dictionaries: everything worth knowing about the stream is a direction in it."""

from residscope.directions.dictionary import DICTIONARY_HASH, LABELS, Dictionary
from residscope.directions.direction import SPACES, Direction, place
from residscope.directions.encoder import EncoderDictionary
from residscope.directions.files import by_id, new_id, read, save, shipped
from residscope.directions.linear import LinearDictionary
from residscope.directions.mixes import mix
from residscope.directions.scree import scree
from residscope.directions.signatures import same_weights, signature
from residscope.directions.unembedding import logit_diff, unembedding, unembedding_rows

__all__ = [
    "DICTIONARY_HASH", "LABELS", "SPACES", "Dictionary", "Direction", "EncoderDictionary", "LinearDictionary", "by_id",
    "logit_diff", "mix", "new_id", "place", "read", "same_weights", "save", "scree", "shipped", "signature", "unembedding",
    "unembedding_rows",
]  # fmt: skip
