"""Token ids that are kept: what one tokenizer makes of a text, in the cache, so that a second pass tokenises nothing."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residscope.corpus.sources.documents import Document, Piece, content_hash
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.errors import FileError, NotCached, NotPlain
from residscope.files import read_told, write_told
from residscope.incoming import parsed
from residscope.model.catalog import cache_folder
from residscope.progress import Tell

RECIPE = 1  # of these files: another number, and none of them is read
SHARD = 1 << 18  # tokens of a file
LEAST = 2_000  # new tokens that are worth a file
BYTES = 4 << 30
SETTING = "RESIDSCOPE_IDS_BYTES"


@dataclass(frozen=True)
class Ids:
    """A document as a tokenizer reads it. content: the hash of its text. unread: its characters without a token."""

    ids: list[int]
    content: int
    unread: int = 0
    labels: dict[str, Any] = field(default_factory=dict)


def read_ids(model: Model, document: Document) -> Ids:
    """A document's ids; none for one of which the tokenizer knows nothing but its unknown token."""
    content, labels = content_hash(document.text), dict(document.labels)
    if document.ids is not None:
        return Ids([*document.ids], content, 0, labels)
    ids, unread = encoding.read(model, document.text)
    unknown = None if model.tokenizer is None else model.tokenizer.unk_token_id
    if ids and unknown is not None and {*encoding.without_bos(model, ids)} <= {unknown}:
        return Ids([], content, len(document.text), labels)
    return Ids(ids, content, unread, labels)


class IdStore:
    """The ids of a model's texts, in files below the cache folder: each holds some documents, is whole or not there, and is
    checked by its hash when it is read.

    A file is known by its piece's key and the tokenizer's hash. Two processes may write one: each writes it whole. Of all
    there are, those used last stay within RESIDSCOPE_IDS_BYTES (4 GB; 0 keeps none). Where the disk is full it goes on
    without, and says so once.
    """

    def __init__(self, model: Model, *, kept: bool = True) -> None:
        self.model, self._most = model, most_bytes()
        self._tokenizer: str | None = None
        self._kept = kept and self._most > 0
        self._folders: dict[int, Path | None] = {}

    def documents(self, piece: Piece, start: int, tell: Tell, labels: tuple[str, ...] = ()) -> Iterator[Ids]:
        """The documents of a piece from number `start` on. Raises what reading it does."""
        folder = self._folder(piece, labels)
        if folder is None:
            yield from (read_ids(self.model, document) for document in islice(piece.read(tell), start, None))
            return
        first, shard = 0, Shard()
        while (loaded := _loaded(folder, first)) is not None:
            yield from loaded.documents(max(0, start - first))
            if loaded.last:
                return
            if not loaded.full:
                shard = loaded
                break
            first += len(loaded)
        if start > first + len(shard):  # going on beyond what is kept: what lies between is not tokenised for it
            yield from (read_ids(self.model, document) for document in islice(piece.read(tell), start, None))
            return
        yield from self._tokenised(piece, folder, first, shard, tell)

    def _tokenised(self, piece: Piece, folder: Path, first: int, shard: "Shard", tell: Tell) -> Iterator[Ids]:
        """The documents behind a shard, which grows by them and is written when it is full, or when no more are asked for."""
        try:
            for document in islice(piece.read(tell), first + len(shard), None):
                ids = read_ids(self.model, document)
                shard.add(ids)
                if shard.full:
                    self._write(folder, first, shard)
                    first, shard = first + len(shard), Shard()
                yield ids
            shard.last = True
        finally:
            if shard.new >= LEAST or (shard.last and first > 0):
                self._write(folder, first, shard)

    def _folder(self, piece: Piece, labels: tuple[str, ...]) -> Path | None:
        """Where a piece's ids are kept; None where they are not."""
        if not self._kept:
            return None
        if id(piece) not in self._folders:
            self._tokenizer = tokenizer_hash(self.model) if self._tokenizer is None else self._tokenizer
            key = key_of(piece) if self._tokenizer else None
            told = json.dumps([RECIPE, key, self._tokenizer, labels])
            name = hashlib.sha256(told.encode()).hexdigest()[:32]
            self._folders[id(piece)] = None if key is None else ids_folder() / name
        return self._folders[id(piece)]

    def _write(self, folder: Path, first: int, shard: "Shard") -> None:
        from safetensors import SafetensorError

        try:
            folder.mkdir(parents=True, exist_ok=True)
            shard.write(_file(folder, first))
            make_room(self._most)
        except (OSError, FileError, SafetensorError) as error:
            if isinstance(error, NotPlain):
                raise
            self._kept = False
            self._folders.clear()
            _say_once(str(error))


class Shard:
    """Documents as one file has them. new: tokens that the file on the disk does not have yet."""

    def __init__(self) -> None:
        self.ids: list[Tensor] = []
        self.contents: list[int] = []
        self.unread: list[int] = []
        self.labels: list[dict[str, Any]] = []
        self.tokens = self.new = 0
        self.last = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def full(self) -> bool:
        return self.tokens >= SHARD

    def add(self, one: Ids) -> None:
        self._add(torch.tensor(one.ids, dtype=torch.int32), one.content, one.unread, one.labels)
        self.new += len(one.ids)

    def documents(self, start: int) -> Iterator[Ids]:
        for i in range(start, len(self)):
            yield Ids(self.ids[i].tolist(), self.contents[i], self.unread[i], self.labels[i])

    def write(self, path: Path) -> None:
        """Raises FileNotThere, OSError."""
        ends = torch.tensor([len(ids) for ids in self.ids], dtype=torch.int64).cumsum(0)
        tensors = {
            "ids": torch.cat([torch.zeros(0, dtype=torch.int32), *self.ids]),
            "ends": ends,
            "contents": torch.tensor(self.contents, dtype=torch.int64),
            "unread": torch.tensor(self.unread, dtype=torch.int64),
        }
        labels = self.labels if any(self.labels) else []
        write_told(path, "ids", tensors, json.dumps({"last": self.last, "labels": labels}))
        self.new = 0

    @classmethod
    def read(cls, path: Path) -> "Shard":
        """Raises FileNotThere, DamagedFile, and what a file of another shape makes of it."""
        tensors, told = read_told(path, "ids")
        about = parsed(told, own=True)
        shard, begin, whole = cls(), 0, tensors["ids"]
        contents, unread, ends = (tensors[name].tolist() for name in ("contents", "unread", "ends"))
        labels = about["labels"] or [{}] * len(ends)
        for end, content, none, told_of in zip(ends, contents, unread, labels, strict=True):
            shard._add(whole[begin:end], content, none, told_of)
            begin = end
        shard.last = about["last"]
        return shard

    def _add(self, ids: Tensor, content: int, unread: int, labels: dict[str, Any]) -> None:
        self.ids.append(ids)
        self.contents.append(content)
        self.unread.append(unread)
        self.labels.append(labels)
        self.tokens += len(ids)


def key_of(piece: Piece) -> str | None:
    """What says that a piece is still the same text; None where nothing does, or its file cannot be looked at."""
    with contextlib.suppress(OSError):
        return piece.key()
    return None


def ids_folder() -> Path:
    return cache_folder() / "ids"


def most_bytes() -> int:
    """How many bytes of ids are kept: RESIDSCOPE_IDS_BYTES."""
    said = os.environ.get(SETTING, "")
    return int(said) if said.isdecimal() else BYTES


def tokenizer_hash(model: Model) -> str:
    """What says that two tokenizers make the same ids of a text; "" where nothing does (a tokenizer of Python alone)."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    facts = (type(model.tokenizer).__name__, model.bos, model.tokenizer.bos_token_id, model.tokenizer.unk_token_id)
    rules = backend.to_str()
    rules = rules[max(0, rules.find('"added_tokens"')) :]  # without padding and truncation, which each call sets anew
    told = f"{facts} {version('tokenizers')} {version('transformers')} {rules}"
    return hashlib.sha256(told.encode()).hexdigest()


def make_room(most: int) -> None:
    """Take away the files that were used longest ago, until the others are no more than so many bytes."""
    files = []
    for path in ids_folder().glob("*/*.safetensors"):
        with contextlib.suppress(OSError):  # another process takes some away, too
            stat = path.stat()
            files.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # where it was the last one
        total -= size


def _file(folder: Path, first: int) -> Path:
    return folder / f"{first:010}.safetensors"


def _loaded(folder: Path, first: int) -> Shard | None:
    """The kept documents from a number on; None where there are none, or the file is damaged, which is then taken away."""
    path = _file(folder, first)
    try:
        shard = Shard.read(path)
        os.utime(path)
    except (FileError, OSError, ValueError, KeyError, TypeError):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    return shard if len(shard) or shard.last else None


_said: set[str] = set()


def _say_once(reason: str) -> None:
    if not _said:
        _said.add(reason)
        warnings.warn(
            f"token ids cannot be kept in {ids_folder()} ({reason}): texts are tokenised anew each time. Free space there, "
            f"set RESIDSCOPE_CACHE to another folder, or {SETTING}=0 to keep none.",
            NotCached,
            stacklevel=2,
        )
