"""What tokens are as text: each by itself, told apart and typed back, and several as they stand in a prompt."""

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

TEXT, BYTES, SPECIAL, UNKNOWN = ("text", "bytes", "special", "unknown")
NUMBERED, BARE = re.compile(r"<id (-?\d+)>"), re.compile(r"<(-?\d+)>")
ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
AT_ONCE = 8192
SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
UNSEEN = [byte for byte in range(256) if byte not in SEEN]
# the character that stands for each byte in GPT-2's vocabulary and those after it: itself, where it can be seen
BYTE_LEVEL = {byte: chr(byte) for byte in SEEN} | {byte: chr(256 + i) for i, byte in enumerate(UNSEEN)}
Decode = Callable[[list[list[int]]], list[str]]


class TokenText:
    """Every token's bytes in the middle of a text, and the name that tells it from all others.

    A name is the token's text: " Mary" keeps its space (a list of words, where all have one, leaves it out). Bytes that are no
    whole characters are written `<0xE2><0x80>`; an id without a token, and one whose text another token has too, `<id 49160>`;
    without a tokenizer, `<5>`. `id_of` is the way back.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        pieces = Pieces(tokenizer)
        self.size = 0 if tokenizer is None else len(tokenizer)
        self._numbered = BARE if tokenizer is None else NUMBERED
        self.special, self.added = pieces.special, pieces.added
        self._names, self._ids = _names(pieces)
        self._pieces = {id: piece for id, piece in pieces.of.items() if piece != _utf8(self._names[id])}
        self._partial = frozenset(id for id in self._pieces if pieces.partial(id))
        self.begins_with_space, self.ends_with_space, self.space_after_added = pieces.habits(self._names)

    def named(self, ids: Iterable[int]) -> list[str]:
        """Each token's name."""
        number = "<{}>" if self._numbered is BARE else "<id {}>"
        return [self._names.get(id) or number.format(id) for id in ids]

    def piece(self, id: int) -> bytes:
        """What the token adds to a text, in UTF-8; the name of an id without a token."""
        piece = self._pieces.get(id)
        return self.named([id])[0].encode() if piece is None else piece

    def kinds(self, ids: Iterable[int]) -> list[str]:
        """Whether each is "text", "bytes" (not whole characters), "special" (BOS, a turn's end ...) or "unknown"."""
        known, special, partial = self._names, self.special, self._partial
        return [
            SPECIAL if id in special else UNKNOWN if id not in known else BYTES if id in partial else TEXT for id in ids
        ]

    def id_of(self, name: str) -> int | None:
        """The token of that name, if there is one; `<id 5>` is 5 whatever its name."""
        numbered = self._numbered.fullmatch(name)
        return self._ids.get(name) if numbered is None else int(numbered[1])

    def text(self, ids: Iterable[int]) -> str:
        """The tokens as one text, as they stand in a prompt from its beginning."""
        reading = Reading(self)
        return "".join([*map(reading.feed, ids), reading.close()])


class Reading:
    """Tokens read from the beginning of a text, one after the other; a character whose bytes have not all come waits.

    The space that a tokenizer puts before a text, or after its last word, is its own and is left out. Bytes that no others can
    complete are the replacement character, one for each ill-formed part.
    """

    def __init__(self, tokens: TokenText) -> None:
        self._tokens = tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drop_space = tokens.begins_with_space
        self._waiting = ""

    def feed(self, id: int) -> str:
        """The text that is certain now and was not before."""
        tokens, piece = self._tokens, self._tokens.piece(id)
        if id in tokens.added or tokens.kinds([id]) == [UNKNOWN]:
            self._drop_space = tokens.space_after_added if id in tokens.added else self._drop_space
            return self.close() + piece.decode()
        if self._drop_space and piece:
            piece, self._drop_space = piece.removeprefix(b" "), False
        text = self._waiting + self._utf8.decode(piece)
        self._waiting = ""
        if tokens.ends_with_space and text.endswith(" "):
            text, self._waiting = text[:-1], " "
        return text

    @property
    def within(self) -> bool:
        """Whether bytes of a character have come whose others have not."""
        return bool(self._utf8.getstate()[0])

    def close(self) -> str:
        """What is left at the end: bytes that were never completed."""
        self._waiting = ""
        return self._utf8.decode(b"", final=True)


class Pieces:
    """A tokenizer's vocabulary as bytes. `of`: by id. `special`, `added`: ids. `single`: those that stand for one byte."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.of: dict[int, bytes] = {}
        self.single: dict[int, bytes] = {}
        self.special, self.added = frozenset[int](), frozenset[int]()
        if tokenizer is not None:
            self._read(tokenizer)

    def _read(self, tokenizer: Any) -> None:
        self._fast = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
        self._raw: dict[int, str] = {id: token for token, id in tokenizer.get_vocab().items()}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        flagged = {id for id, token in added.items() if token.special}
        self.special = frozenset(flagged | {id for id in tokenizer.all_special_ids if id is not None})
        self.added = self.special | frozenset(added)
        alphabet = self._byte_alphabet()
        self.single = {} if alphabet else self._single_bytes()
        plain = [id for id in self._raw if id not in self.added and id not in self.single]
        if alphabet:
            pieces = {id: _through(alphabet, self._raw[id]) for id in plain}
        else:
            pieces = {id: _utf8(text) for id, text in _in_the_middle(self._decode, self._raw, plain).items()}
        whole = {
            id: _utf8(str(added.get(id, self._raw.get(id)))) for id in self.added if id in added or id in self._raw
        }
        self.of = pieces | self.single | whole
        spaced = all(piece.startswith(b" ") and len(piece) > 1 for piece in pieces.values())
        # a space that the vocabulary writes itself is a part of its tokens
        self._spaced = spaced and not any(str(self._raw.get(id))[:1] in "▁Ġ" for id in pieces)

    def _decode(self, rows: list[list[int]]) -> list[str]:
        if self._fast is not None:
            return list(self._fast.decode_batch(rows, skip_special_tokens=False))
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return [self._tokenizer.decode(row, **options) for row in rows]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _byte_alphabet(self) -> dict[str, int]:
        """The characters that stand for bytes, where tokens are written in such."""
        if self._fast is None:
            return dict(getattr(self._tokenizer, "byte_decoder", {}))
        decoder = self._fast.decoder
        parts = b"" if decoder is None else decoder.__getstate__()
        return {character: byte for byte, character in BYTE_LEVEL.items()} if b'"type":"ByteLevel"' in parts else {}

    def _single_bytes(self) -> dict[int, bytes]:
        """The ids of `<0xE2>` and its like, where the tokenizer decodes them as bytes."""
        of = {int(m[1], 16): id for id, token in self._raw.items() if (m := ONE_BYTE.fullmatch(token))}
        if not {0xC3, 0xA9} <= of.keys() or "é" not in self._decode([[of[0xC3], of[0xA9]]])[0]:
            return {}
        return {id: bytes([byte]) for byte, id in of.items()}

    def text(self, id: int) -> str | None:
        """What a token is called after: its characters, if it is whole ones."""
        text = _whole(self.of[id])
        return text[1:] if text and self._spaced and id not in self.added else text

    def partial(self, id: int) -> bool:
        """Whether a token that is not named by its text is named by its bytes."""
        return id in self.single or _whole(self.of[id]) is None

    def habits(self, names: Mapping[int, str]) -> tuple[bool, bool, bool]:
        """Whether a text gets a space before it, after it, and after a special token in it."""
        words = (name.strip() for id, name in names.items() if id in self.of and id not in self.added)
        for word in islice((word for word in words if word.isascii() and word.isalnum()), 64):
            ids = self.encode(word)
            read = b"".join(self.of.get(id, b"") for id in ids).decode(errors="replace")
            if read.strip() != word:
                continue
            inside = [self.encode(self.of[id].decode() + word)[1:] for id in islice(self.special & self.of.keys(), 8)]
            after = any(row and self.of.get(row[0], b"").startswith(b" ") for row in inside)
            return read.startswith(" "), read.endswith(" "), after
        return False, False, False


def _names(pieces: Pieces) -> tuple[dict[int, str], dict[str, int]]:
    """Every token's own name, and the way back. Of several with one text, the one that is written so keeps it."""
    texts = {id: pieces.text(id) for id in pieces.of}
    claims: dict[str, list[int]] = {}
    for id, text in texts.items():
        if text and not NUMBERED.fullmatch(text):
            claims.setdefault(text, []).append(id)
    owners = {text: ids[0] if len(ids) == 1 else _owner(pieces, text, ids) for text, ids in claims.items()}
    names = {id: text for text, id in owners.items()}
    for id, piece in pieces.of.items():
        if id not in names:
            label = _escaped(piece) if id in pieces.single or texts[id] is None else f"<id {id}>"
            label = f"<id {id}>" if label in owners else label
            names[id], owners[label] = label, id
    return names, owners


def _owner(pieces: Pieces, text: str, ids: Sequence[int]) -> int:
    written = pieces.encode(text)
    if len(written) == 1 and written[0] in ids:
        return written[0]
    return min(ids, key=lambda id: (id not in pieces.added, id in pieces.single, id))


def _in_the_middle(decode: Decode, raw: Mapping[int, str], ids: Sequence[int]) -> dict[int, str]:
    """Each token's text between two others: what decoding with an anchor on both sides has and without it has not."""
    words = [id for id in ids if raw[id].isascii() and raw[id].isalpha()]
    for anchor in [*words[:8], *ids[:8]]:
        alone, twice = decode([[anchor], [anchor, anchor]])
        if alone and twice.startswith(alone) and len(twice) > len(alone):
            break
    else:
        return {id: raw[id] for id in ids}
    after = twice[len(alone) :]
    texts: dict[int, str] = {}
    for some in (ids[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE)):
        for id, text in zip(some, decode([[anchor, id, anchor] for id in some]), strict=True):
            if text.startswith(alone) and text.endswith(after) and len(text) >= len(alone + after):
                texts[id] = text[len(alone) : len(text) - len(after)]
            else:
                single = decode([[anchor, id]])[0]
                texts[id] = single[len(alone) :] if single.startswith(alone) else raw[id]
    return texts


def _through(alphabet: Mapping[str, int], token: str) -> bytes:
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return _utf8(token)


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")


def _whole(piece: bytes) -> str | None:
    """The characters of a piece; None where it does not begin and end with whole ones."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def _escaped(piece: bytes) -> str:
    """Whole characters as they are, other bytes as `<0xE2>`."""
    if len(piece) == 1:
        return f"<0x{piece[0]:02X}>"
    text = piece.decode(errors="surrogateescape")
    return "".join(c if not "\udc80" <= c <= "\udcff" else f"<0x{ord(c) - 0xDC00:02X}>" for c in text)
