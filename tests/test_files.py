"""Files: what each kind of thing is written as, and that whatever else they hold is refused with a type."""

import json
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import residscope as rs
from methods.clouds import fitted
from residscope import directions, edits, errors, views
from residscope.endings import ENDINGS, check_ending
from residscope.engine.model import Model
from residscope.files import digest, read_tensors, write_tensors
from residscope.items import OPENED_BY, OPENED_WITH_MODEL
from residscope.methods._lib.answers import flips
from residscope.same_values import same
from residscope.views import html
from tiny_models import tiny_llama

MODEL = Model(tiny_llama(), name="llama")
RESULT = rs.Result(
    torch.tensor([[0.0, 1.5], [-2.0, 0.5]]), ("layer", "pos"), low=torch.zeros(2, 2), high=torch.ones(2, 2)
)
PROBE = fitted()
EYE = torch.eye(3, 32)
DICTIONARY = rs.Dictionary(
    "some", "resid_pre.1", EYE, EYE * 2, torch.zeros(32), sd=torch.ones(3), names=("a", "b", "c")
)
SAVED = {
    "result": RESULT.save,
    "recording": lambda path: rs.save_recording(MODEL.run([1, 2, 3]), path),
    "dictionaries": lambda path: directions.save(path, DICTIONARY, MODEL),
    "probe": PROBE.save,
    "edits": lambda path: edits.save(path, [edits.scale("z.1", 2.0)]),
    "view": lambda path: views.save_html(views.Text("a", "b"), path),
    "figure": lambda path: views.save_picture(views.Text("a", "b"), path),
    "picture": views.Text("a", "b").save,
    "report": flips(torch.tensor([2.0]), torch.tensor([-2.0])).save,
    "item": DICTIONARY.save,
}
LOADED = {
    "result": rs.Result.load,
    "recording": lambda path: rs.load_recording(path, MODEL),
    "dictionaries": lambda path: directions.read(path, MODEL),
    "probe": rs.Probe.load,
    "edits": edits.load,
}
HEADS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-", ".html": b"<!doctype html>"}
WRONG = [".csv", ".json", ".pt", ".npz", ".gz", ".txt", ".0", ".HTM"]


@pytest.fixture
def built(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("ui")
    (folder / "_ui").mkdir()
    for name in ("frozen.js", "frozen.css"):
        (folder / "_ui" / name).write_text("")
    monkeypatch.setattr(html, "files", lambda _: folder)


def test_each_kind_that_is_saved_has_a_line_in_the_table():
    assert ENDINGS.keys() == {*SAVED, "direction", "graph"}  # a graph's own files: tests/graph/test_files.py


DIRECTION = DICTIONARY[1]
SHOWN = {
    "a result": RESULT, "a direction": DIRECTION, "a dictionary": DICTIONARY, "a probe": PROBE,
    "a recording": MODEL.run([1, 2, 3], ["resid_post"]), "prompts": rs.PromptSet("a b"), "a view": RESULT.view(),
    "a report": flips(torch.tensor([2.0]), torch.tensor([-2.0])),
}  # fmt: skip


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", SHOWN)
def test_every_item_is_drawn_by_its_ending_and_nothing_else_is_written(name, tmp_path):
    item = SHOWN[name]
    for ending, head in HEADS.items():
        item.save(tmp_path / f"some{ending}")
        assert (tmp_path / f"some{ending}").read_bytes()[: len(head)] == head
    before = sorted(tmp_path.iterdir())
    for ending in WRONG:
        with pytest.raises(errors.WrongEnding, match=r"Allowed: .*\.html, \.png, \.svg, \.pdf"):
            item.save(tmp_path / f"some{ending}")
    for ending in HEADS:
        with pytest.raises(errors.FileNotThere, match="no such folder"):
            item.save(tmp_path / "none" / f"some{ending}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", SAVED)
def test_only_the_endings_of_the_table_are_written(kind, tmp_path):
    for ending in [*WRONG, *{".safetensors", "", *HEADS} - {*ENDINGS[kind]}]:
        path = tmp_path / f"effect{ending}"
        with pytest.raises(errors.WrongEnding, match=r"Allowed: \.(safetensors|html|png)") as caught:
            SAVED[kind](path)
        assert all(word in str(caught.value) for word in ENDINGS[kind])
        assert not [*tmp_path.iterdir()]
    for ending in ENDINGS[kind]:
        for name in (f"effect{ending}", f"EFFECT{ending.upper()}"):
            SAVED[kind](tmp_path / name)
            head, own = (tmp_path / name).read_bytes()[:15], HEADS.get(ending)
            assert head.startswith(own) if own else head[8:9] == b"{", name  # safetensors: a length, then JSON
    with pytest.raises(errors.FileNotThere, match="no such folder"):
        SAVED[kind](tmp_path / "none" / f"effect{ENDINGS[kind][0]}")


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(ENDINGS)),
    st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1, max_size=6),
)
def test_an_ending_is_in_the_table_or_refused(kind, ending):
    told = f".{ending.lower()}"
    if told in ENDINGS[kind]:
        assert check_ending(f"x{told}", kind) == told
    elif Path(f"x.{ending}").suffix:
        with pytest.raises(errors.WrongEnding, match="Allowed"):
            check_ending(f"x.{ending}", kind)


def test_the_command_line_refuses_before_it_works():
    from typer.testing import CliRunner

    from residscope.cli.app import app

    for line in (
        ["directions", "fit", "pca", "-o", "x.txt", "--site", "embed"],
        ["reproduce", "lrqp", "--out", "x.pdf"],
    ):
        answer = CliRunner().invoke(app, line)
        assert answer.exit_code != 0
        assert "cannot be written as" in answer.output or isinstance(answer.exception, errors.WrongEnding), (
            answer.output
        )


# ── what a file says of its contents ────────────────────────────────────────────────────────────────────────────

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ODD_TENSORS = [
    torch.ones(()),
    torch.ones(2, 2, 2),
    torch.ones(3, dtype=torch.int64),
    torch.zeros(0),
    torch.ones(2, dtype=torch.bool),
]


def paths(value, at=()):
    """The way to each value within."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("kind", [kind for kind in LOADED if kind != "edits"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_a_sealed_file_says_it_is_read_or_refused_with_a_type(kind, data, tmp_path_factory):
    """As another version, or a person, may have written it: the hash is right, the contents are not."""
    path = tmp_path_factory.mktemp("odd") / "some"
    SAVED[kind](path)
    tensors, about = read_tensors(path, kind)
    about = json.loads(json.dumps(about))
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from([p for p in paths(about) if "hash" not in p]))
        about = changed(about, place, data.draw(VALUES))
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        if data.draw(st.booleans()):
            tensors[name] = data.draw(st.sampled_from(ODD_TENSORS))
        else:
            del tensors[name]
    told = json.dumps(about)
    save_file(tensors, path, metadata={"residscope": kind, "about": told, "sha256": digest(kind, tensors, told)})
    with suppress(errors.ResidscopeError):
        repr(LOADED[kind](path))


@pytest.mark.parametrize("kind", LOADED)
def test_metadata_of_other_types_is_refused(kind, tmp_path):
    path = tmp_path / "some"
    for told in (
        "5",
        "[]" if kind != "edits" else "[[]]",
        "null",
        '"x"',
        "{",
        "[" * 100_000,
        "NaN",
        '{"$what": 1}',
        '{"$tensor": {}}',
    ):
        metadata = {"residscope": kind, "about": told, "edits": told, "dictionaries": "{"}
        for facts in (metadata, {k: v for k, v in metadata.items() if k != "dictionaries"}):
            save_file({"x": torch.ones(2)}, path, metadata=facts | {"sha256": digest(kind, {"x": torch.ones(2)}, told)})
            with pytest.raises(errors.ResidscopeError, match="some"):
                LOADED[kind](path)
    for content in (b"", b"\x89PNG", b"{}", b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(errors.ResidscopeError, match="some"):
            LOADED[kind](path)
    with pytest.raises(errors.ResidscopeError):
        LOADED[kind](tmp_path)


def test_provenance_comes_back_as_it_was_or_is_refused_when_it_is_written(tmp_path):
    told = {"shape": (2, 3), 7: "seven", "share": float("inf"), "n": [1, (2,)], "$": None}
    directions.save(tmp_path / "d", replace(DICTIONARY, provenance=told), MODEL)
    (back,) = directions.read(tmp_path / "d", MODEL).values()
    assert dict(back.provenance) == told
    replace(PROBE, provenance=told).save(tmp_path / "p")
    assert dict(rs.Probe.load(tmp_path / "p").provenance) == told
    for write in (
        lambda: directions.save(tmp_path / "new", replace(DICTIONARY, provenance={"of": {1, 2}}), MODEL),
        lambda: replace(PROBE, provenance={"of": {1, 2}}).save(tmp_path / "new"),
    ):
        with pytest.raises(errors.NotPlain, match=r"provenance.*'of'.*builtins\.set"):
            write()
    assert not (tmp_path / "new").exists()


def test_tensors_of_any_strides_are_written(tmp_path):
    some = {
        "a": torch.ones(4)[::2][:1],
        "b": torch.empty(0, 3).T,
        "c": torch.arange(6).view(2, 3).T,
        "d": torch.ones(()),
    }
    write_tensors(tmp_path / "some", "result", some, {})
    for name, x in read_tensors(tmp_path / "some", "result")[0].items():
        assert torch.equal(x, some[name])


def test_a_dictionary_whose_parts_do_not_fit_is_refused():
    for wrong in ({"mean": torch.zeros(31)}, {"sd": torch.ones(2)}, {"names": ("a",)}, {"write": EYE[:2]}):
        with pytest.raises((errors.WrongWidth, TypeError)):  # the checker of the tests stands before
            replace(DICTIONARY, **wrong)
    with pytest.raises(errors.DirectionError, match="space"):
        replace(DICTIONARY, space="loud")


# ── every bit of every kind of file ─────────────────────────────────────────────────────────────────────────────


def parts_of_recording(recording):
    return {"tokens": recording.tokens, **{str(site): x for site, x in recording.held.items()}}, edits.to_json(
        recording.edits
    )


RUN = MODEL.run([1, 2, 3], ["resid_post.2"], edits=[edits.scale("z.1", 2.0)])
EVERY = {  # how each kind of file is written, and what is read from it, as plain parts that can be compared
    "result": (RESULT.save, rs.load_item),
    "recording": (RUN.save, lambda path: parts_of_recording(rs.load_item(path, MODEL))),
    "dictionaries": (SAVED["dictionaries"], lambda path: directions.read(path, MODEL)),
    "dictionary": (DICTIONARY.save, rs.load_item),
    "direction": (DIRECTION.save, rs.load_item),
    "probe": (PROBE.save, rs.load_item),
    "prompts": (rs.PromptSet("a b").save, rs.load_item),
    "generation": (MODEL.generate([1, 2, 3], max_new_tokens=3).save, lambda path: [*rs.load_item(path)]),
    "report": (SAVED["report"], rs.load_item),
    "edits": (
        lambda path: edits.save(path, [edits.steer("resid_pre.2", torch.ones(32), 1.5, pos=1)]),
        lambda path: edits.to_json(edits.load(path)),
    ),
}


def test_every_kind_of_item_is_among_those_that_are_flipped():
    assert EVERY.keys() == {*OPENED_BY, *OPENED_WITH_MODEL, "edits"}


@pytest.mark.parametrize("kind", EVERY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_with_one_bit_changed_is_refused_or_reads_the_same_and_without_a_warning(kind, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "some"
    write, read = EVERY[kind]
    write(path)
    before, whole = read(path), path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for first, last in ((0, head), (0, head), (head, len(whole))):  # the header has what a tensor's own hash cannot see
        if first == last:
            continue
        at, bit = data.draw(st.integers(first, last - 1)), data.draw(st.integers(0, 7))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with suppress(errors.ResidscopeError):
                assert same(read(path), before), f"bit {bit} of byte {at}"


def test_files_of_before_they_were_sealed_open_and_say_so():
    kept = Path(__file__).parent / "kept" / "v0_1"
    for name in ("edits", "probe-edits"):
        with pytest.warns(errors.Unsealed, match=f"{name}.safetensors.*Save it again"):
            edits.load(kept / f"{name}.safetensors")


def test_edits_saved_again_are_sealed(tmp_path):
    kept = Path(__file__).parent / "kept" / "v0_1" / "edits.safetensors"
    with pytest.warns(errors.Unsealed):
        old = edits.load(kept)
    edits.save(tmp_path / "new", old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert edits.to_json(edits.load(tmp_path / "new")) == edits.to_json(old)
