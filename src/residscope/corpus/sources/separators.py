"""What stands between the documents that a model was trained on."""

from collections.abc import Sequence

from residscope.engine.model import Model

ENDS = ("<|endoftext|>", "<|end_of_text|>")
"""Tokens that end a document, also in vocabularies whose EOS ends an answer of a chat."""


def document_end(model: Model) -> int | None:
    """The token that ends a document: one of ENDS where the tokenizer has it, else its EOS; None where it has neither."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return None
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    known = [special[name] for name in ENDS if name in special]
    return int(known[0]) if known else tokenizer.eos_token_id


def document_start(model: Model) -> int | None:
    """What a document begins with, or comes after: BOS where that is the model's habit, else the end of the one before."""
    begin = None if model.tokenizer is None else model.tokenizer.bos_token_id
    if model.bos and begin is not None:
        return int(begin)
    end = document_end(model)
    return begin if end is None else end


def joined(model: Model, ids: Sequence[int]) -> list[int]:
    """A document's ids with the token that ends it behind them: none where that is the BOS that the next one begins with."""
    end = document_end(model)
    begins = model.tokenizer.bos_token_id if model.bos and model.tokenizer is not None else None
    return [*ids] if end is None or end == begins else [*ids, end]
