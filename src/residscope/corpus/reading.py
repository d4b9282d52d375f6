"""The one reader of a corpus: its texts as rows of token ids, each with where it stands."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from residscope.corpus.sources.described import Text
from residscope.corpus.sources.documents import Piece
from residscope.corpus.sources.ids import Ids, IdStore, key_of, tokenizer_hash
from residscope.corpus.sources.order import Block, Place, blocks
from residscope.corpus.sources.packing import Packer, cut
from residscope.corpus.sources.packing import Part as Part
from residscope.corpus.sources.packing import Row as Row
from residscope.corpus.sources.pieces import pieces_of
from residscope.corpus.sources.separators import Joiner
from residscope.corpus.text import Source, called, opened
from residscope.engine.model import Model
from residscope.engine.sinks import special_ids
from residscope.errors import CorpusError, EmptyCorpus
from residscope.progress import Tell

LENGTH = 128  # tokens of a row
SHORTEST = 8  # tokens of a row that is read
UNREAD = "characters without a token"
PACKED = "packed: tokens of a row attend to the documents before them in it"


@dataclass(frozen=True)
class _At:
    """Where a pass stands: in front of a block, so many of whose rows were given. Its rows are of this form, behind `skip`."""

    length: int
    least: int
    skip: int
    place: Place
    rows: int = 0


class Reader:
    """A corpus as one model reads it. `unread`: characters of what was read that the tokenizer has no token for, left out.

    Such are NUL, halves of surrogate pairs, and what byte-pair merging without an unknown token drops; a prompt that holds one is
    refused, but a long text is read without them, and `about` says how many they were. A document of which the tokenizer knows
    nothing but its unknown token is left out too. `first` and `special`: tokens of the rows given that no statistic takes, by
    `engine.sinks.kept`, for they are first in their row, or BOS or the end of a document.
    """

    def __init__(self, model: Model, corpus: Source) -> None:
        self.model = model
        source = opened(corpus, model)
        self.source = source
        self.text = source if isinstance(source, Text) else Text(source)
        self.unread = self.first = self.special = 0
        self._pieces = self.text.order.pieces(pieces_of(self.text.source, self.text.labels))
        self._store = IdStore(model, kept=self.text.cache)
        self._joined = Joiner(model)
        self._at: _At | None = None
        self._resumed: _At | None = None

    @classmethod
    def of(cls, model: Model, corpus: "Source | Reader") -> "Reader":
        return corpus if isinstance(corpus, Reader) else cls(model, corpus)

    @property
    def about(self) -> dict[str, Any]:
        """For a provenance: what the corpus is called, and what of it was not read, if anything; of rows that are packed, and
        of what `rs.text` says otherwise, also how many first and special tokens are left out."""
        told: dict[str, Any] = {"corpus": called(self.source)}
        if isinstance(self.source, Text):
            told |= {"first tokens": self.first, "special tokens": self.special}
            told |= {"rows": PACKED} if self.text.pack else {}
        return told | ({UNREAD: self.unread} if self.unread else {})

    def rows(
        self, *, length: int, tokens: int, least: int = SHORTEST, skip: int = 0, tell: Tell = lambda: None
    ) -> Iterator[Row]:
        """Rows of `length` tokens, until `tokens` of them have been given: each text cut into such, or texts packed into them.

        length: or the model's context, if that is less. Rows under `least` are dropped: of packed ones there is only the last.
        skip: so many tokens go by before, where a pass does not go on from a place; of shuffled texts whole windows. tell: asked
        before each text.

        Raises:
            EmptyCorpus: there was not one row. CorpusError: the text cannot be used, or a resumed pass is of another form.
            Cancelled: `tell` said so.
        """
        length = min(length, self.model.context)
        resumed = self._resumed
        if resumed is not None and (resumed.length, resumed.least) != (length, least):
            raise CorpusError(
                "a pass goes on with the rows that it began with",
                received=f"length={length}, least={least}",
                allowed=f"length={resumed.length}, least={resumed.least}",
            )
        self._resumed, given = None, 0
        begin = resumed or _At(length, least, skip, Place())
        self.unread += begin.place.unread
        special = special_ids(self.model)
        for at, row in self._rows(begin, tell):
            self._at = at
            self.first += 1
            self.special += sum(id in special for id in row.ids[1:])
            given += len(row.ids)
            yield row
            if given >= tokens:
                return
        if given == 0 and resumed is None:
            raise EmptyCorpus(
                f"the text gave no row of {least} tokens or more",
                received=f"{self.unread:,} {UNREAD}" if self.unread else None,
                fix="give longer texts",
            )

    def batches(self, *, length: int, tokens: int, size: int, tell: Tell) -> Iterator[list[list[int]]]:
        """The ids of `rows`, so many rows at a time."""
        batch: list[list[int]] = []
        for row in self.rows(length=length, tokens=tokens, tell=tell):
            batch.append(row.ids)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def state(self) -> dict[str, Any]:
        """The place behind the row that was given last, in plain JSON: what `from_state` goes on from."""
        at = self._at or self._resumed
        key = key_of(self._pieces[at.place.piece]) if at is not None and at.place.piece < len(self._pieces) else None
        how: dict[str, Any] = {"corpus": called(self.source), "tokenizer": tokenizer_hash(self.model), "key": key}
        how["left out"] = [self.first, self.special]
        if at is None:
            return how | {"at": None}
        carry = [list(part) for part in at.place.carry]
        return how | {"at": {**asdict(replace(at, place=replace(at.place, carry=()))), "carry": carry}}

    @classmethod
    def from_state(cls, model: Model, corpus: Source, state: Mapping[str, Any]) -> "Reader":
        """A reader whose `rows` are those that would have come after `state` was taken: of the same text, tokenizer and form.

        Raises CorpusError: it is of another text or tokenizer, or the file has changed since.
        """
        reader = cls(model, corpus)
        try:
            at = state["at"]
            if at is not None:
                place = Place(**{**at["place"], "carry": tuple(tuple(part) for part in at["carry"])})
                reader._resumed = _At(at["length"], at["least"], at["skip"], place, at["rows"])
            reader.first, reader.special = state["left out"]
            told = {name: state[name] for name in ("corpus", "tokenizer", "key")}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(
                "that is no place in a text", received=str(state)[:80], allowed="what state() gave"
            ) from error
        now = reader.state()
        for name, what in (("corpus", "text"), ("tokenizer", "tokenizer"), ("key", "content of the file")):
            if told[name] != now[name]:
                raise CorpusError(
                    f"the place is in another text: the {what} is not the same",
                    received=str(told[name])[:200],
                    allowed=str(now[name])[:200],
                )
        return reader

    def _rows(self, begin: _At, tell: Tell) -> Iterator[tuple[_At, Row]]:
        """The rows from a place on, each with the place behind it."""
        done, before = begin.rows, begin.place
        packer = Packer(begin.length, before.carry)

        def read(piece: Piece, start: int) -> Iterator[Ids]:
            return self._store.documents(piece, start, tell, self.text.labels)

        for block in blocks(self._pieces, self.text.order, read, before, tell):
            rows, after = self._of_block(block, before, packer, begin)
            for number, row in enumerate(rows):
                if number >= done:
                    yield replace(begin, place=before, rows=number + 1), row
            done, before = 0, after
        if len(packer.ids) >= begin.least and before.gone - len(packer.ids) >= begin.skip and not done:
            yield replace(begin, place=before, rows=1), packer.rest()

    def _of_block(self, block: Block, before: Place, packer: Packer, form: _At) -> tuple[list[Row], Place]:
        """The rows of a block's documents, without those that begin before `skip`, and the place behind them."""
        length, skip, gone, unread, rows = form.length, form.skip, before.gone, before.unread, list[Row]()
        chance = self.text.order.chance(block.number)
        first = gone - len(packer.ids)
        for number, one in block.documents:
            self.unread += one.unread
            unread += one.unread
            if self.text.pack:
                ids = self._joined(one.ids)
                rows += packer.add(ids, number, one.labels)
            else:
                ids, begin = one.ids, max(0, skip - gone) if chance is None else 0
                made = cut(ids, number, one.labels, length=length, begin=begin)
                rows += (row for row in made if len(row.ids) >= form.least)
            gone += len(ids)
        if chance is not None:
            chance.shuffle(rows)
            rows = rows if first >= skip else []
        elif self.text.pack:
            rows = [row for i, row in enumerate(rows) if first + i * length >= skip]
        return rows, replace(block.after, gone=gone, unread=unread, carry=packer.carry)
