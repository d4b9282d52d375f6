"""The tokens of a text: ids, bytes, words and variants, and the same text as other models read it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from residscope.engine import encoding
from residscope.engine.reader import Reader
from residscope.errors import BadArguments, BadPrompt, PromptError
from residscope.model.token_text import SPECIAL, Reading, TokenText
from residscope.reports import Record, Report
from residscope.shown_tokens import visible
from residscope.views import Grid, Table

if TYPE_CHECKING:
    import pandas

WORD = re.compile(r"[^\W\d_]+|\d+")
COLUMNS = ("pos", "id", "token", "bytes", "kind", "start", "end", "word", "variants")
Group = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class TokenRow(Record):
    """One token. bytes: hex, in UTF-8. start, end: its characters in the text as it is read, also those that it spells a part
    of. word: the number of the word that it is a part of. variants: of a token that is a word, with and without
    space and capital, and how many tokens each takes."""

    kind: ClassVar[str] = "token_row"
    pos: int
    id: int
    text: str
    bytes: str
    sort: str
    start: int
    end: int
    word: int | None
    variants: tuple[tuple[str, int], ...]

    @property
    def cells(self) -> list[Any]:
        variants = ", ".join(f"{visible(text)} {n}" for text, n in self.variants)
        where = "" if self.word is None else self.word
        return [self.pos, self.id, visible(self.text), self.bytes, self.sort, self.start, self.end, where, variants]


@dataclass(frozen=True, eq=False)
class Read(Record):
    """A text as one tokenizer reads it: `text` is what its tokens spell."""

    kind: ClassVar[str] = "token_read"
    model: str
    text: str
    rows: tuple[TokenRow, ...]


@dataclass(frozen=True, eq=False, repr=False)
class TokenTable(Report):
    """Tables of tokens, one for each tokenizer, the first one's first.

    groups: of each other one, the smallest runs of tokens that spell the same characters in both, (from, to) of the first, (from,
    to) of the other; none where the two spell the text otherwise.
    """

    kind: ClassVar[str] = "report:token_table"
    text: str
    reads: tuple[Read, ...]
    groups: tuple[tuple[Group, ...], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Read:
        return self.reads[0]

    def table(self, which: int = 0) -> Table:
        read = self.reads[which]
        return Table(COLUMNS, [row.cells for row in read.rows], title=f"{read.model}: {len(read.rows)} tokens")

    def aligned(self, which: int = 1) -> Table:
        """The first reading beside another: a line for each run of tokens that spells the same in both."""
        own, other = self.first, self.reads[which]
        lines = []
        for a, b, c, d in self.groups[which - 1]:
            start, end = own.rows[a].start, own.rows[b - 1].end
            lines.append([visible(own.text[start:end]), _listed(own.rows[a:b]), _listed(other.rows[c:d])])
        note = "" if lines else f"{other.model} spells the text otherwise, so the two are not aligned."
        return Table(["text", own.model, other.model], lines, title=f"{own.model} and {other.model}", note=note)

    def view(self) -> Table | Grid:
        if len(self.reads) == 1:
            return self.table()
        tables = [*map(self.table, range(len(self.reads))), *map(self.aligned, range(1, len(self.reads)))]
        return Grid(tables, columns=1, title="The same text in several models")

    def to_dataframe(self) -> "pandas.DataFrame":
        """A line for each token of each model."""
        import pandas

        return pandas.DataFrame(
            [[read.model, *row.cells] for read in self.reads for row in read.rows], columns=["model", *COLUMNS]
        )

    def __repr__(self) -> str:
        return f"TokenTable({', '.join(f'{read.model}: {len(read.rows)} tokens' for read in self.reads)})"


def token_table(model: Any, text: Any, *, others: Sequence[Any] = (), bos: bool | None = None) -> TokenTable:
    """The tokens of a text, or of a row of token ids: their ids, bytes, kinds, words, and how many tokens each word's variants
    take; and the same text in other models, aligned by character.

        rs.token_table(model, "When John and Mary", others=["gpt2"]).view()

    model, others: models, or names of models that are on this machine, of which the tokenizers alone are read. bos: of texts; the
    models' own habits unless said.

    Raises:
        ModelNotFound, NoTokenizer, DamagedModel. PromptError: a text that `model` does not take. BadArguments.
    """
    if isinstance(others, str):
        raise BadArguments("others are several", received=repr(others)[:80], allowed="a list of models or names")
    readers = [Reader.of(one) for one in (model, *others)]
    ids = readers[0].encode(text, bos) if isinstance(text, str) else encoding.row_of(text)
    if not ids:
        raise BadPrompt(
            "there are no tokens to show", received=repr(text)[:80], allowed="a text, or token ids of one prompt"
        )
    first = read_tokens(readers[0], ids)
    reads = [first, *(read_tokens(reader, reader.encode(first.text, bos)) for reader in readers[1:])]
    groups = tuple(align_reads(first, other) for other in reads[1:])
    return TokenTable(
        first.text, tuple(reads), groups, {"method": "token_table", "models": [one.name for one in readers]}
    )


def read_tokens(reader: Reader, ids: Sequence[int]) -> Read:
    """A row of ids as one tokenizer reads them."""
    tokens = reader.tokens
    spelled, spans = _spelled(reader, tokens, ids)
    names, kinds = tokens.named(ids), tokens.kinds(ids)
    apart = [span for span, sort in zip(spans, kinds, strict=True) if sort == SPECIAL]
    words = [found.span() for found in WORD.finditer(spelled)]
    words = [(a, b) for a, b in words if not any(a < end and start < b for start, end in apart)]
    rows, at = [], 0
    for pos, (id, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        while at < len(words) and words[at][1] <= start:
            at += 1
        inside = kinds[pos] != SPECIAL and at < len(words) and words[at][0] < end
        hexed = "" if kinds[pos] == SPECIAL else tokens.piece(id).hex(" ")
        variants = variants_of(reader, names[pos]) if kinds[pos] == "text" else ()
        rows.append(TokenRow(pos, id, names[pos], hexed, kinds[pos], start, end, at if inside else None, variants))
    return Read(reader.name, spelled, tuple(rows))


def variants_of(reader: Reader, name: str) -> tuple[tuple[str, int], ...]:
    """A word with and without the space in front and the capital, and how many tokens each takes; none for what is no word."""
    word = name.strip()
    if not word.isalpha():
        return ()
    forms = dict.fromkeys([f" {word}", word, f" {_turned(word)}", _turned(word)])
    found = []
    for form in forms:
        try:
            found.append((form, len(reader.encode(form, bos=False))))
        except PromptError:
            continue
    return tuple(found)


def align_reads(own: Read, other: Read) -> tuple[Group, ...]:
    """The smallest runs of tokens that spell the same in both; none where the two spell the text otherwise."""
    if own.text != other.text:
        return ()
    groups: list[Group] = []
    (a, b), (i, j) = (0, 0), (0, 0)
    while i < len(own.rows) and j < len(other.rows):
        i, j = i + 1, j + 1
        while (own.rows[i - 1].end, i) != (other.rows[j - 1].end, i):
            if own.rows[i - 1].end < other.rows[j - 1].end:
                i += 1
            else:
                j += 1
        while i < len(own.rows) and own.rows[i].end == own.rows[i - 1].end:
            i += 1
        while j < len(other.rows) and other.rows[j].end == other.rows[j - 1].end:
            j += 1
        groups.append((a, i, b, j))
        a, b = i, j
    return tuple(groups)


def _spelled(reader: Reader, tokens: TokenText, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """What the ids spell from the beginning of a text, and each token's characters there; a habitual BOS has none."""
    silent = len(ids) - len(encoding.without_bos(reader, ids))  # type: ignore[arg-type]
    reading, text, spans = Reading(tokens), "", [(0, 0)] * silent
    for id in ids[silent:]:
        start = len(text)
        text += reading.feed(id)
        spans.append((start, len(text) + reading.within))
    text += reading.close()
    return text, [*spans[:-1], (spans[-1][0], len(text))] if len(spans) > silent else spans


def _turned(word: str) -> str:
    return word.lower() if word[:1].isupper() else word.capitalize()


def _listed(rows: Iterable[TokenRow]) -> str:
    return " | ".join(visible(row.text) for row in rows)
