"""Scores of heads: declared by name, each with its definition, its source and what it is held against."""

from residscope.methods._lib.heads import looking, telling, writing
from residscope.methods._lib.heads.declared import HEAD_SCORES, HeadScore, Part, check_data, find, register_head_score

__all__ = [
    "HEAD_SCORES", "HeadScore", "Part", "check_data", "find", "looking", "register_head_score", "telling", "writing",
]  # fmt: skip
