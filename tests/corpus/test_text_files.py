"""Files of text of every kind, packed or not: what is in them, their labels, and the place where they are damaged."""

import gzip
import itertools
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import residscope as rs
from residscope import errors
from residscope.corpus.sources.files import documents_of, paragraphs
from residscope.corpus.text import called, opened, texts

zstandard = pytest.importorskip("zstandard")
STORIES = ["one story", "zwei Geschichten – kurz", "three\n\nparagraphs of one"]


def lines(stories=STORIES, **labels) -> bytes:
    rows = ({"text": text, **{name: values[i] for name, values in labels.items()}} for i, text in enumerate(stories))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(path: Path, **columns) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def write(path: Path, content: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(packed(content))
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_packed_files_hold_what_plain_ones_do(tmp_path, ending):
    assert [*texts(write(tmp_path / f"a.jsonl{ending}", lines()))] == STORIES
    plain = write(tmp_path / f"a.txt{ending}", "one\r\nparagraph\n\n\nanother – one\n\n \n".encode())
    assert [*texts(str(plain))] == ["one\nparagraph", "\nanother – one"]


def test_several_frames_are_one_text(tmp_path):
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(b"".join(zstandard.ZstdCompressor().compress(line) for line in lines().splitlines(True)))
    assert [*texts(file)] == STORIES
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(b"".join(gzip.compress(line) for line in lines().splitlines(True)))
    assert [*texts(file)] == STORIES


def test_parquet_of_this_machine(tmp_path):
    file = parquet(tmp_path / "a.parquet", text=STORIES, other=["x", None, "z"])
    assert [*texts(file)] == STORIES
    assert [*texts(f"{file}#other")] == ["x", "z"]


@given(st.text("ab \n", max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_paragraphs_do_not_depend_on_how_the_text_is_cut(text, cuts):
    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[a:b] for a, b in itertools.pairwise(ends)]
    assert [*paragraphs(parts)] == [part for part in text.split("\n\n") if part.strip()]


def test_folders_and_patterns(tmp_path):
    for name, story in zip(("b/2.jsonl", "b/1.jsonl.gz", "3.jsonl.zst"), STORIES, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, lines([story]))
    (tmp_path / "b/readme.md").write_text("no text")
    assert [*texts(tmp_path)] == [STORIES[2], STORIES[1], STORIES[0]]
    assert [*texts(f"{tmp_path}/b/*")] == [STORIES[1], STORIES[0]]
    assert [*texts(f"{tmp_path}/**/[23].*")] == [STORIES[2], STORIES[0]]
    assert called(opened(f"{tmp_path}/b/?.jsonl")) == f"{tmp_path}/b/?.jsonl"
    for nothing in (f"{tmp_path}/*.txt", f"{tmp_path}/b/*.md", f"{tmp_path}/c"):
        with pytest.raises(errors.CorpusError, match="no such text"):
            opened(nothing)


def test_another_field(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"content": "x"}\n')
    assert [*texts(f"{file}#content")] == ["x"]
    named = tmp_path / "a#b.jsonl"
    named.write_text('{"text": "of a file with # in its name"}\n')
    assert [*texts(str(named))] == ["of a file with # in its name"]


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_file_that_is_cut_short_says_where(tmp_path, name, ending):
    many = [f"{i} " + "".join(chr(97 + (i * k * k) % 26) for k in range(200)) for i in range(4000)]
    content = lines(many) if name == "a.jsonl" else "\n\n".join(many).encode()
    file = write(tmp_path / f"{name}{ending}", content)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    read = []
    with pytest.raises(errors.CorpusError, match=rf"{name}{ending} is damaged at .*line \d+") as caught:
        read.extend(texts(file))
    assert read == many[: len(read)]
    line = int(str(caught.value).split("line ")[1].split(".")[0])
    if name == "a.jsonl":
        assert line == len(read) + 1


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_is_something_else(tmp_path, ending):
    file = tmp_path / f"a.jsonl{ending}"
    file.write_bytes(b"no such packing at all, but plain words")
    with pytest.raises(errors.CorpusError, match=rf"a\.jsonl{ending} is damaged at line 1"):
        [*texts(file)]


@pytest.mark.parametrize("bad", [0.3, 0.6])
def test_a_changed_byte_of_zstandard_is_seen(tmp_path, bad):
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(lines(STORIES * 300)))
    packed[int(len(packed) * bad)] ^= 0x40
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(packed)
    with pytest.raises(errors.CorpusError, match=r"damaged at line \d+|has no text"):
        [*texts(file)]


def test_damaged_parquet_says_the_row(tmp_path):
    file = parquet(tmp_path / "a.parquet", text=[f"{i}" * 300 for i in range(2000)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(errors.CorpusError, match=r"a\.parquet is damaged at row 1"):
        [*texts(file)]
    half = len(whole) // 2
    file.write_bytes(whole[:half] + bytes(2000) + whole[half + 2000 :])
    with pytest.raises(errors.CorpusError, match=r"a\.parquet is damaged at row \d+"):
        [*texts(file)]


def test_zstandard_is_an_extra(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl.zst", lines())
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(errors.MissingExtra, match=r"residscope\[zst\]"):
        [*texts(file)]


def test_packed_files_of_a_hub(hub):
    hub.repositories["someone/stories"] = {
        "train-0.jsonl.zst": zstandard.ZstdCompressor().compress(lines()),
        "train-1.jsonl.zst": zstandard.ZstdCompressor().compress(lines(["more"])),
    }
    reading = texts("hub:someone/stories")
    assert next(reading) == STORIES[0]
    assert not any("train-1" in asked for asked in hub.asked)
    assert [*reading] == [*STORIES[1:], "more"]


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────


def labels_of(source, *names):
    return [document.labels for document in rs.text(source, labels=names).documents()]


def test_labels_go_with_their_texts(tmp_path):
    columns = {"lang": ["en", "de", None], "stars": [1, 2.5, 3]}
    wanted = [{"lang": lang, "stars": stars} for lang, stars in zip(*columns.values(), strict=True)]
    assert labels_of(write(tmp_path / "a.jsonl.gz", lines(**columns)), "lang", "stars") == wanted
    assert labels_of(parquet(tmp_path / "a.parquet", text=STORIES, **columns), "lang", "stars") == wanted


def test_labels_that_are_not_there_or_mixed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "k": 1}\n{"text": "b"}\n')
    with pytest.raises(errors.CorpusError, match=r"line 2 of a\.jsonl has no label k.*text"):
        labels_of(file, "k")
    file.write_text('{"text": "a", "k": 1}\n{"text": "b", "k": null}\n{"text": "c", "k": "1"}\n')
    with pytest.raises(errors.CorpusError, match=r"label k changes its kind at line 3 of a\.jsonl.*int or float"):
        labels_of(file, "k")
    file.write_text('{"text": "a", "k": [1]}\n')
    with pytest.raises(errors.CorpusError, match=r"label k of line 1 of a\.jsonl is no plain value"):
        labels_of(file, "k")
    with pytest.raises(errors.CorpusError, match=r"a\.parquet has no column k.*text"):
        labels_of(parquet(tmp_path / "a.parquet", text=["x"]), "k")
    for nothing in (["a text"], "english"):
        with pytest.raises(errors.CorpusError, match="only rows of files have labels"):
            labels_of(nothing, "k")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(errors.CorpusError, match=r"a\.txt has no labels"):
        labels_of(tmp_path / "a.txt", "k")


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.txt.zst"])
def test_a_large_file_is_never_held(tmp_path, name):
    many = [f"{i:06}" + "lorem ipsum " * 80 for i in range(20_000)]  # 20 MB
    file = write(tmp_path / name, lines(many) if "jsonl" in name else "\n\n".join(many).encode())
    del many
    tracemalloc.start()
    try:
        count = sum(1 for _ in documents_of(file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 8e6
