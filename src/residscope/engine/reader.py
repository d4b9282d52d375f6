"""A tokenizer by itself, which reads as a model with it would; no weight is loaded."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.model.token_text import TokenText


class Reader:
    """What of a model needs its tokenizer alone: `encode`, `text`, `token_texts`, `token_kinds`, as `Model` has them."""

    def __init__(self, name: str, tokenizer: Any, bos: bool | None = None) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.bos = encoding.adds_bos(tokenizer) if bos is None else bos

    @classmethod
    def of(cls, source: Any) -> "Reader":
        """Of a model, a reader, or the name of a model that is on this machine.

        Raises:
            ModelNotFound, NoTokenizer, DamagedModel. BadArguments: it is none of these.
        """
        if isinstance(source, Reader):
            return source
        if isinstance(source, str | Path):
            from residscope.model.opening import open_tokenizer

            return cls(str(source), *open_tokenizer(str(source)))
        if not hasattr(source, "tokenizer") or not hasattr(source, "bos"):
            raise BadArguments(
                "this has no tokenizer",
                received=type(source).__name__,
                allowed="a model, or the name of one that is here",
            )
        reader = cls(source.name, source.tokenizer, source.bos)
        if isinstance(source, Model):
            reader.tokens = source._token_text()  # worked out once for the model
        return reader

    @cached_property
    def tokens(self) -> TokenText:
        return TokenText(self.tokenizer)

    def encode(self, text: str, bos: bool | None = None) -> list[int]:
        """A text's token ids. Raises as `Model.encode`."""
        return encoding.encode(self, text, bos)  # type: ignore[arg-type]

    def text(self, ids: Iterable[int]) -> str:
        return self.tokens.text(encoding.without_bos(self, [*ids]))  # type: ignore[arg-type]

    def token_texts(self, ids: Iterable[int]) -> list[str]:
        return self.tokens.named(ids)

    def token_kinds(self, ids: Iterable[int]) -> list[str]:
        return self.tokens.kinds(ids)
