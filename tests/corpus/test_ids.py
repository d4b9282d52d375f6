"""Ids that are kept: a second pass tokenises nothing and reads the same; a spoilt file or a full disk does no harm."""

import contextlib
import errno
import multiprocessing
import os
import random
import warnings
from itertools import islice
from pathlib import Path

import pytest

import residscope as rs
from corpus.readings import model
from residscope import errors
from residscope.corpus.reading import Reader
from residscope.corpus.sources import ids as kept_ids
from residscope.corpus.sources import pieces
from residscope.engine import encoding
from residscope.engine.model import Model
from session import worlds
from tiny_models import tiny_llama

DRAWN = random.Random(1)
TEXTS = ["".join(DRAWN.choices("abcdefg hij.", k=DRAWN.randint(1, 90))) for _ in range(400)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(kept_ids.SETTING, raising=False)
    monkeypatch.setattr(kept_ids, "SHARD", 4000)
    monkeypatch.setattr(kept_ids, "LEAST", 100)
    monkeypatch.setattr(kept_ids, "_said", set())
    return tmp_path / "cache" / "ids"


@pytest.fixture
def tokenised(monkeypatch) -> list[str]:
    """The texts that were tokenised."""
    seen: list[str] = []
    read = encoding.read
    monkeypatch.setattr(encoding, "read", lambda of, text, bos=None: (seen.append(text), read(of, text, bos))[1])
    return seen


@pytest.fixture
def file(tmp_path) -> Path:
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(TEXTS))
    return file


def rows(corpus, of=None, tokens=10**6, **how):
    return [*Reader(of or model(), corpus).rows(length=16, tokens=tokens, least=1, **how)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("source", ["file", "list"])
def test_a_second_pass_tokenises_nothing(source, file, folder, tokenised):
    corpus = file if source == "file" else TEXTS
    first = rows(corpus)
    assert len(tokenised) == len(TEXTS) - sum(not text.strip() for text in TEXTS if source == "file")
    tokenised.clear()
    assert rows(corpus) == first
    assert rows(rs.text(corpus, pack=True, shuffle=0)) == rows(rs.text(corpus, pack=True, shuffle=0, cache=False))
    tokenised.clear()
    assert rows(rs.text(corpus, pack=True, shuffle=0))
    assert tokenised == []
    assert len(files(folder)) > 3


def test_a_pass_that_ends_early_keeps_what_it_read(file, folder, tokenised):
    first = rows(file, tokens=1000)
    begun = len(tokenised)
    assert 0 < begun < len(TEXTS) / 4
    tokenised.clear()
    assert rows(file, tokens=1000) == first
    assert tokenised == []
    every = rows(file)
    assert 0 < len(tokenised) <= len(TEXTS) - begun, "it goes on behind what is kept"
    assert every == rows(rs.text(file, cache=False))


def test_a_changed_file_or_tokenizer_is_read_anew(file, tokenised):
    rows(file)
    tokenised.clear()
    content, stat = file.read_text(), file.stat()
    file.write_text(content.replace("a", "b"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rows(file) == rows(rs.text(file, cache=False))
    assert tokenised
    tokenised.clear()
    with_bos = Model(tiny_llama(), worlds.tokenizer(), bos=True)
    assert rows(file, with_bos)[0].ids[0] == 0
    assert tokenised


def test_it_can_be_off(file, folder, tokenised, monkeypatch):
    rows(rs.text(file, cache=False))
    monkeypatch.setenv(kept_ids.SETTING, "0")
    rows(file)
    assert files(folder) == []


def test_a_damaged_file_is_taken_away_and_read_anew(file, folder, tokenised):
    first = rows(file)
    for number, path in enumerate(files(folder)[:3]):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes([bytes(content), b"", bytes(content[:100])][number])
    tokenised.clear()
    assert rows(file) == first
    assert tokenised
    tokenised.clear()
    assert rows(file) == first
    assert tokenised == []


def test_what_is_kept_stays_within_its_bytes(tmp_path, folder, monkeypatch):
    sizes = []
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(f"{i} {text}" for text in TEXTS))
        rows(tmp_path / f"{i}.txt")
        sizes.append(sum(path.stat().st_size for path in files(folder)))
        if i == 1:
            rows(tmp_path / "0.txt")  # used later than the second
            monkeypatch.setenv(kept_ids.SETTING, str(sizes[1] + sizes[0] // 2))
            used = {path.parent for path in files(folder)}
    assert max(sizes) <= sizes[1] + sizes[0] // 2 + sizes[0]
    assert sizes[-1] <= sizes[1] + sizes[0] // 2
    assert used - {path.parent for path in files(folder)}, "what was used longest ago went"


def test_a_full_disk_is_said_once_and_reading_goes_on(file, folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = rows(rs.text(file, cache=False))
    monkeypatch.setattr(kept_ids, "write_told", full)
    with pytest.warns(errors.NotCached, match=r"No space left.*RESIDSCOPE_CACHE"):
        assert rows(file) == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(file) == plain
    assert files(folder) == []


def test_a_place_in_what_is_kept_opens_no_text(file, tokenised, monkeypatch):
    every = rows(file)
    reader = Reader(model(), file)
    taken = [*islice(reader.rows(length=16, tokens=10**6, least=1), 300)]
    tokenised.clear()
    resumed = Reader.from_state(model(), file, reader.state())
    assert [*taken, *resumed.rows(length=16, tokens=10**6, least=1)] == every
    assert tokenised == []


def test_labels_are_kept_with_the_ids(tmp_path, tokenised):
    table = tmp_path / "a.jsonl"
    table.write_text("".join(f'{{"text": "{text}", "k": {i}}}\n' for i, text in enumerate(TEXTS)))
    said = rs.text(table, labels=["k"])
    first = rows(said)
    tokenised.clear()
    assert rows(said) == first
    assert first[-1].labels == {"k": len(TEXTS) - 1}
    assert tokenised == []
    assert rows(table)[-1].labels == {}


def _read(path: str, cache: str, out) -> None:
    os.environ["RESIDSCOPE_CACHE"] = cache
    kept_ids.SHARD, kept_ids.LEAST = 4000, 100
    out.put([row.ids for row in rows(path)])


@pytest.mark.parametrize("shard", [100, 1000, 10**6])
def test_every_size_of_file_holds_the_same(shard, file, folder, tokenised, monkeypatch):
    """Also where a text ends as a file of its ids does."""
    monkeypatch.setattr(kept_ids, "SHARD", shard)
    file.write_text("\n\n".join("abcdefghij" * 10 for _ in range(30)))
    first = rows(file)
    assert first == rows(rs.text(file, cache=False))
    tokenised.clear()
    monkeypatch.setattr(pieces, "documents_of", lambda *_: pytest.fail("the text itself is not read again"))
    assert rows(file) == first
    assert tokenised == []


def test_padding_set_on_a_tokenizer_changes_nothing(file, tokenised):
    first = rows(file)
    tokenised.clear()
    of = model()
    of.tokenizer.pad_token = of.tokenizer.eos_token
    of.tokenizer(["a", "bcd"], padding=True)
    try:
        assert rows(file) == first
    finally:
        of.tokenizer.pad_token = None
        of.tokenizer("a")
    assert tokenised == []


def test_two_processes_may_write_at_once(file, folder):
    plain = [row.ids for row in rows(rs.text(file, cache=False))]
    processes = multiprocessing.get_context("fork")
    out = processes.Queue()
    readers = [processes.Process(target=_read, args=(str(file), str(folder.parent), out)) for _ in range(2)]
    for reader in readers:
        reader.start()
    assert [out.get(timeout=60) for _ in readers] == [plain, plain]
    for reader in readers:
        reader.join()
    assert [row.ids for row in rows(file)] == plain
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]


def test_a_document_that_cannot_be_read_leaves_those_before_it(tmp_path, folder, tokenised):
    table = tmp_path / "a.jsonl"
    table.write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS[:100]) + "{}\n")
    for _ in range(2):
        tokenised.clear()
        with pytest.raises(errors.CorpusError, match=r"line 101 of a\.jsonl has no text"):
            rows(table)
    assert tokenised == []


def test_texts_that_are_read_once_are_not_kept(folder):
    with contextlib.suppress(errors.EmptyCorpus):
        rows(iter(TEXTS))
    assert files(folder) == []


def test_built_in_texts_are_kept_too(tokenised, folder):
    first = rows("english", tokens=2000)
    tokenised.clear()
    assert rows("english", tokens=2000) == first
    assert tokenised == []
    assert len(files(folder)) == 1
