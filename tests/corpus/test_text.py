"""Where text comes from: files, what is typed, and a hub's data sets, from a real server on the loopback."""

import sys

import pytest

import residscope as rs
from corpus.readings import model
from loopback_hub import COMMIT
from residscope import errors
from residscope.corpus.hub import data_set, of_text
from residscope.corpus.text import called, opened, texts, typed


def test_files_of_text(tmp_path):
    plain, listed = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("one\nparagraph\n\n  \n\nanother – one", encoding="utf-8")
    assert list(texts(plain)) == ["one\nparagraph", "another – one"]
    listed.write_text('{"text": "one"}\n\n{"text": null, "id": 2}\n{"text": "t\\u00eate"}\n')
    assert list(texts(str(listed))) == ["one", "tête"]
    assert called(opened(str(listed))) == str(listed)
    assert called(["a", "b"]) == "texts"
    assert list(texts(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    "line", [b"{not json", b'{"words": "x"}', b'["text"]', b'{"text": 3}', b'{"text": "\xff"}', b"7", b'"text"']
)
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(errors.CorpusError, match=r"line 3 of a\.jsonl has no text"):
        list(texts(file))


def test_what_is_typed():
    assert typed("notes", "one\n\ntwo") == ["one", "two"]
    assert typed("notes.jsonl", '{"text": "one"}\n{"text": "two"}') == ["one", "two"]
    with pytest.raises(errors.CorpusError, match=r"line 1 of notes\.jsonl"):
        typed("notes.jsonl", "one")


def test_no_such_text(tmp_path):
    (tmp_path / "a.csv").write_text("text")
    for missing in ("python-doc", str(tmp_path / "a.csv"), str(tmp_path / "none.txt"), str(tmp_path)):
        with pytest.raises(errors.CorpusError, match=r"no such text.*hub:org/name"):
            opened(missing)


def test_a_data_set_is_read_file_by_file(hub):
    found = data_set("hub:someone/stories")
    assert found.files == ("data/train-00000.jsonl", "data/train-00001.jsonl")
    assert found.name == f"hub:someone/stories@{COMMIT}"
    reading = texts("hub:someone/stories")
    assert next(reading) == "one story"
    assert not any("train-00001" in asked for asked in hub.asked)
    assert list(reading) == ["another story", "a third story"]
    assert list(texts(found.name)) == ["one story", "another story", "a third story"]


def test_revisions_folders_and_fields(hub):
    assert list(texts("hub:someone/stories@old")) == ["an old story"]
    assert data_set("hub:someone/stories@old").name == f"hub:someone/stories@{'b' * 40}"
    assert list(texts("hub:someone/mixed")) == ["ein Absatz", "first paragraph", "second paragraph"]
    assert list(texts("hub:someone/mixed/en")) == ["first paragraph", "second paragraph"]
    assert data_set("hub:someone/mixed/en").name == f"hub:someone/mixed/en@{COMMIT}"
    assert list(texts("hub:someone/content#content")) == ["under another name"]
    assert data_set("hub:someone/content#content").name.endswith("#content")


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("hub:", "not the name of a data set"),
        ("hub:someone/stories@", "not the name of a data set"),
        ("hub:../etc/passwd", "not the name of a data set"),
        ("hub:someone/nothing", "no such data set"),
        ("hub:someone/stories@v9", "no such revision"),
        ("hub:someone/secret", "gated"),
        ("hub:someone/pictures", "no files of text.*a.png"),
        ("hub:someone/mixed/fr", "no files of text in fr/"),
        ("hub:someone/content", "line 1 of all.jsonl has no text"),
        ("hub:someone/broken", "line 2 of all.jsonl has no text"),
        ("hub:someone/numbers", "line 1 of all.jsonl has no text"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_refused(hub, source, match):
    with pytest.raises(errors.CorpusError, match=match):
        list(texts(source))


def test_a_hub_that_does_not_answer(hub):
    found = data_set("hub:someone/stories")
    first = list(texts(found))
    hub.down = True
    with pytest.raises(errors.Offline, match=r"does not answer for someone/content.*503"):
        list(texts("hub:someone/content"))
    hub.shutdown()
    hub.server_close()
    assert list(texts(found)) == first
    with pytest.raises(errors.Offline, match="does not answer for someone/content"):
        list(texts("hub:someone/content"))


def test_parquet_needs_pyarrow(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(errors.MissingExtra, match=r"residscope\[parquet\]"):
        list(texts("hub:someone/table"))


def test_a_column_of_parquet(hub):
    pyarrow = pytest.importorskip("pyarrow")
    from io import BytesIO

    from pyarrow.parquet import write_table

    out = BytesIO()
    write_table(pyarrow.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), out)
    hub.repositories["someone/table"] = {"train.parquet": out.getvalue()}
    assert list(texts("hub:someone/table")) == ["one", "two"]
    with pytest.raises(errors.CorpusError, match=r"row 1 of train\.parquet has no text"):
        list(texts("hub:someone/table#n"))
    with pytest.raises(errors.CorpusError, match=r"no column words.*text, n"):
        list(texts("hub:someone/table#words"))


def test_which_files_hold_the_text():
    assert of_text(["a.txt", "a.jsonl", "b.parquet"]) == ["a.jsonl"]
    assert of_text(["constraint.txt", "my-train.txt"]) == ["my-train.txt"]
    assert of_text(["latest.txt", "test.txt"]) == ["latest.txt"]
    assert of_text(["test.txt"]) == ["test.txt"]
    assert of_text(["a.csv"]) == []


def test_a_direction_says_the_commit_it_was_fitted_on(hub):
    hub.repositories["someone/stories"]["data/train-00000.jsonl"] = (
        b'{"text": "a story that is long enough to be of use"}\n' * 4
    )
    found = rs.pca(model(), "hub:someone/stories", "resid_post.1", 2)
    assert found.provenance["corpus"] == f"hub:someone/stories@{COMMIT}"


def test_a_file_is_known_by_its_ending_in_any_case(hub):
    hub.repositories["someone/loud"] = {"ALL.JSONL": b'{"text": "a loud story"}\n'}
    assert list(texts("hub:someone/loud")) == ["a loud story"]


def test_general_english_ships_and_begins_with_both_of_its_sources():
    every = list(texts("english"))
    whole = "\n\n".join(every)
    assert 900_000 < len(whole.encode()) < 1_200_000
    assert all(text.strip() for text in every)
    start = "\n\n".join(every[:40])
    assert "state of the Union" in start
    assert "Call me Ishmael." in start
    letters = [c for c in whole if c.isalpha()]
    assert sum(c.isascii() for c in letters) / len(letters) > 0.999
    assert whole.count("def ") < 10, "prose, no code"
