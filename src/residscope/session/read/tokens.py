"""The tokens of the prompt, and how another model reads its text."""

from collections.abc import Callable
from threading import Lock
from typing import Annotated, TypedDict

from residscope.engine.reader import Reader
from residscope.errors import NotFound
from residscope.methods.reading.token_table import Read, token_table
from residscope.session.state import State
from residscope.world.session_world import need_model


class Variant(TypedDict):
    """A word with or without its space and its capital, and how many tokens it takes."""

    text: str
    tokens: int


class TokenInfo(TypedDict):
    """One token: `bytes` is hex; `start`, `end` are its characters in the text; `word` the number of its word."""

    id: int
    text: str
    bytes: str
    sort: Annotated[str, "text, bytes (no whole characters), special or unknown."]
    start: int
    end: int
    word: int | None
    variants: list[Variant]


class TextRead(TypedDict):
    model: str
    text: str
    tokens: list[TokenInfo]


class TokenTableAnswer(TypedDict):
    """The prompt's tokens; `aligned`: runs of the first reading and of the second that spell the same, [from, to, from, to]; null
    where there is one alone, or the two spell the text otherwise."""

    reads: list[TextRead]
    aligned: list[tuple[int, int, int, int]] | None


class TokenTables:
    """Tables of the live prompt. Other models' tokenizers are read once."""

    def __init__(self, now: Callable[[], State]) -> None:
        self._now = now
        self._lock = Lock()
        self._readers: dict[str, Reader] = {}

    def table(self, *, other: str | None, companion: bool) -> TokenTableAnswer:
        """Raises NotFound: there is no such prompt. ModelNotFound, NoTokenizer: of the other model. PromptError."""
        state = self._now()
        beside = None if state.companion is None else state.companion.prompt
        prompt = beside if companion else state.prompt
        if prompt is None:
            raise NotFound(
                "there is no such prompt", received="companion" if companion else "prompt", fix="set one first"
            )
        model = need_model(state.model).model
        made = token_table(model, [*prompt.ids], others=[] if other is None else [self._reader(other)])
        groups = made.groups[0] if made.groups and made.groups[0] else None
        return {"reads": [_read(read) for read in made.reads], "aligned": None if groups is None else [*groups]}

    def _reader(self, name: str) -> Reader:
        with self._lock:
            if name not in self._readers:
                self._readers[name] = Reader.of(name)
            return self._readers[name]


def _read(read: Read) -> TextRead:
    rows: list[TokenInfo] = [
        {
            "id": row.id, "text": row.text, "bytes": row.bytes, "sort": row.sort, "start": row.start, "end": row.end,
            "word": row.word, "variants": [{"text": text, "tokens": n} for text, n in row.variants],
        }
        for row in read.rows
    ]  # fmt: skip
    return {"model": read.model, "text": read.text, "tokens": rows}
