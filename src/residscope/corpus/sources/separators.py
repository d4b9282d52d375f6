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


def endings(model: Model) -> list[int]:
    """The tokens behind which a document that a model writes is done: the one that ends documents, and EOS."""
    eos = None if model.tokenizer is None else model.tokenizer.eos_token_id
    return [id for id in dict.fromkeys((document_end(model), eos)) if id is not None]


class Joiner:
    """A document's ids with the token that ends it behind them: none where that is the BOS that the next one begins with.

    Of a document that a model wrote, what stood in its place is left out: the end of the one before it, and an EOS.
    """

    def __init__(self, model: Model) -> None:
        begins = model.tokenizer.bos_token_id if model.bos and model.tokenizer is not None else None
        end = document_end(model)
        self.end = None if end == begins else end
        self._endings = endings(model)

    def __call__(self, ids: Sequence[int]) -> list[int]:
        if not ids or self.end is None:
            return [*ids]
        first = 1 if ids[0] == self.end else 0
        last = len(ids) - (1 if ids[-1] in self._endings else 0)
        return [*ids[first:last], self.end]
