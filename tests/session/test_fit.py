"""Fitting dictionaries beside the live run: all of it or nothing, ids that stay true, and files that survive."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from loopback_hub import COMMIT
from residscope import directions
from residscope.errors import (
    BadFit,
    CorpusError,
    DirectionError,
    MalformedJSON,
    NotFound,
    NoVectors,
    UnknownHead,
    UnknownSite,
    UnknownToken,
)
from residscope.session import Session
from residscope.session import loaded as loaded_module
from session import worlds

TEXT = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "\n\n".join(f"a paragraph, number {n}: {n * n}" for n in range(100)),
}
OTHER = {"kind": "typed", "name": "other.txt", "text": "\n\n".join(f"{n} THINGS TO DO; {n + 7}?" for n in range(120))}
PCA = {"method": "pca", "site": "resid_post.1", "text": TEXT, "tokens": 1000, "n": 4}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A model that ships without components."""
    monkeypatch.setattr(loaded_module, "shipped", lambda model: {})
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "fitted"})
        assert session.wait(60)
        yield session


def wire(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def fit(session: Session, **recipe: Any) -> list[dict[str, Any]]:
    """Fit, wait until it is there or has failed; the dictionaries that are new."""
    before = {row["id"] for row in wire(session)["model"]["dictionaries"]}
    done = threading.Event()
    session.intent("fit", recipe)
    _, state, stop = session.subscribe(
        lambda _, patch: done.set() if "fit" in patch and (patch["fit"] is None or patch["fit"]["error"]) else None
    )
    if state["fit"] is not None and not state["fit"]["error"]:
        assert done.wait(60)
    stop()
    return [row for row in wire(session)["model"]["dictionaries"] if row["id"] not in before]


FITS: list[tuple[dict[str, Any], str, str, int]] = [
    ({**PCA, "standardise": True}, "pca@resid_post.1", "centred", 32),
    ({"method": "pca", "site": "result.1", "head": 2, "n": 3}, "pca@result.1.h2", "centred", 32),
    ({"method": "svd", "site": "z.3", "head": 0, "n": 5}, "svd@z.3.h0", "raw", 8),
    ({"method": "nmf", "site": "mlp_post.2", "n": 3, "clip": True}, "nmf@mlp_post.2", "raw", 48),
    ({"method": "mean_difference", "site": "attn_out.2", "second": OTHER}, "mean_difference@attn_out.2", "centred", 32),
    ({"method": "unembedding", "words": ["x", "y"]}, "unembedding@resid_post.3", "lens", 32),
]


@pytest.mark.parametrize(("recipe", "id", "space", "width"), FITS, ids=[f[1] for f in FITS])
def test_every_method_gives_what_the_library_gives(
    bare: Session, recipe: dict[str, Any], id: str, space: str, width: int
) -> None:
    asked = recipe if recipe["method"] == "unembedding" else {"text": TEXT, "tokens": 1000, **recipe}
    (row,) = fit(bare, **asked)
    assert wire(bare)["fit"] is None
    assert {"id": id, "space": space, "width": width, "shipped": False}.items() <= row.items()
    names = {"mean_difference": "mine.txt − other.txt", "unembedding": ""}
    assert row["fitted_on"] == names.get(recipe["method"], "mine.txt")
    assert row["standardised"] is recipe.get("standardise", False)
    found = bare.state.model.dictionary(id)
    given: dict[str, Any] = {}
    again = _run(bare.state.model.code[id], bare.state.model.model, given)
    torch.testing.assert_close(found.read, again.read)
    torch.testing.assert_close(found.mean, again.mean)
    told = bare.dictionary(id)
    assert [component["label"] for component in told["components"]] == [found.label(i) for i in range(len(found))]
    assert all(bool(component["top"]) is (width == 32) for component in told["components"])
    assert (told["tokens"], told["head"]) == (row["tokens"], row["head"])


def _run(code: str, model: Any, given: dict[str, Any]) -> Any:
    return eval(code, {"rs": rs, "directions": directions, "model": model} | given)


@pytest.mark.parametrize("method", ["pca", "svd"])
def test_the_whole_stream_is_one_pass(bare: Session, method: str) -> None:
    slow = worlds.Slow(bare.state.model.model)
    with worlds.session(slow) as session:
        slow.runs = 0
        found = fit(session, method=method, site="stream", text=TEXT, tokens=1000, n=4)
        passes = slow.runs
    assert [row["site"] for row in found] == ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(4))]
    assert passes < 10, "a pass for each row would be five times as many"


def test_components_fitted_with_a_run_beside_them(bare: Session) -> None:
    runs = wire(bare)["runs"]
    with pytest.raises(NotFound, match="without components"):
        bare.dictionary("pca@resid_post.1")
    assert len(fit(bare, method="pca", site="stream", tokens=1000)) == 5
    assert wire(bare)["runs"] == runs, "a fit makes no run"
    again = rs.pca(bare.state.model.model, "python-docs", "resid_post.1", 30, tokens=1000)
    torch.testing.assert_close(bare.state.model.dictionary("pca@resid_post.1").read, again.read)
    ref = {"kind": "mix", "terms": [{"dictionary": "pca@resid_post.1", "index": 2, "weight": 1.0}]}
    bare.intent(
        "add_edit", {"edit": {"kind": "steer", "site": "resid_post.1", "direction": ref, "strength": 2.0, "unit": "sd"}}
    )
    assert bare.wait(60)
    assert "rs.pca(" in bare.intent("python", {"direction": ref})["code"]
    offset = load(bare.coef(wire(bare)["current"]["a"], dictionary="pca@resid_post.1"))["offset"]
    assert offset.isfinite().all()


def test_a_second_one_of_the_same_place_has_a_number(bare: Session) -> None:
    ids = [fit(bare, **{**PCA, "n": n})[0]["id"] for n in (2, 3)]
    assert ids == ["pca@resid_post.1", "pca@resid_post.1#2"]
    assert [len(bare.dictionary(id)["components"]) for id in ids] == [2, 3]
    bare.intent("forget_dictionary", {"id": ids[0]})
    assert fit(bare, **PCA)[0]["id"] == "pca@resid_post.1#3", "an id never comes to mean something else"


def test_what_is_forgotten_takes_its_edits_out_of_the_run(bare: Session) -> None:
    fit(bare, **PCA)
    ref = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 1.0}}
    bare.intent("add_edit", {"edit": {"kind": "steer", "site": "resid_post.1", "direction": ref, "strength": 9.0}})
    assert bare.wait(60)
    assert wire(bare)["current"]["b"] is not None
    bare.intent("forget_dictionary", {"id": "pca@resid_post.1"})
    assert bare.wait(60)
    assert "no components are fitted" in wire(bare)["edits"][0]["error"]
    assert wire(bare)["current"]["b"] is None
    for id in ("pca@resid_post.1", "nothing"):
        with pytest.raises(NotFound):
            bare.intent("forget_dictionary", {"id": id})


def test_what_came_with_residscope_stays(one: Session) -> None:
    before = one.snapshot()
    with pytest.raises(DirectionError, match="comes with Residscope"):
        one.intent("forget_dictionary", {"id": "pca@resid_post.1"})
    assert one.snapshot() == before
    assert all(row["shipped"] for row in wire(one)["model"]["dictionaries"])
    assert fit(one, **PCA)[0]["id"] == "pca@resid_post.1#2"


def test_one_fit_at_a_time_and_a_cancelled_one_leaves_nothing(bare: Session) -> None:
    slow = worlds.Slow(bare.state.model.model)
    with worlds.session(slow) as session:
        before = wire(session)
        for site in ("resid_post.1", "stream"):
            slow.entered.clear()
            slow.gate.clear()
            session.intent("fit", {**PCA, "site": site})
            assert slow.entered.wait(30)
            place = wire(session)["fit"] | {"progress": 0.0}
            assert place == {"method": "pca", "place": site, "tokens": 1000, "progress": 0.0, "error": None}
            with pytest.raises(DirectionError, match="another fit is in progress"):
                session.intent("fit", PCA)
            session.intent("cancel_fit")
            assert wire(session)["fit"] is None
            slow.gate.set()
            _until_no_fit_runs()
            assert wire(session) == before
        assert len(fit(session, **PCA)) == 1, "and the next one is as if nothing had been"


def _until_no_fit_runs() -> None:
    for thread in threading.enumerate():
        if thread.name == "residscope-fit":
            thread.join(30)
            assert not thread.is_alive()


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("no method", {"site": "resid_post.1"}, MalformedJSON, "method"),
    ("unknown method", {**PCA, "method": "ica"}, MalformedJSON, "method"),
    ("unknown text", {**PCA, "text": {"kind": "builtin", "name": "/etc/hosts.txt"}}, CorpusError, "python-docs"),
    ("lines without text", {**PCA, "text": {**TEXT, "name": "a.jsonl"}}, CorpusError, "line 1 of a.jsonl"),
    ("few tokens", {**PCA, "tokens": 10}, MalformedJSON, "tokens"),
    ("many tokens", {**PCA, "tokens": 10_000_000}, MalformedJSON, "tokens"),
    ("no components", {**PCA, "n": 0}, MalformedJSON, "n"),
    ("more than the width", {**PCA, "n": 33}, DirectionError, "1 to 32"),
    ("more than a head's width", {**PCA, "site": "z.1", "head": 1, "n": 9}, DirectionError, "1 to 8"),
    ("unknown site", {**PCA, "site": "nowhere"}, UnknownSite, "nowhere"),
    ("no vectors", {**PCA, "site": "pattern.1"}, NoVectors, "pattern.1"),
    ("no head", {**PCA, "site": "z.1"}, UnknownHead, "which"),
    ("no such head", {**PCA, "site": "z.1", "head": 4}, UnknownHead, "0 to 3"),
    ("a head where there is none", {**PCA, "head": 1}, UnknownHead, "head"),
    ("a head of the stream", {**PCA, "site": "stream", "head": 1}, UnknownHead, "head"),
    ("nowhere", {"method": "pca"}, BadFit, "site"),
    ("parts of the stream", {"method": "nmf", "site": "stream"}, BadFit, "one place"),
    ("one text", {"method": "mean_difference", "site": "resid_post.1", "text": TEXT}, BadFit, "second"),
    ("two texts", {**PCA, "second": OTHER}, BadFit, "second"),
    ("clipped components", {**PCA, "clip": True}, BadFit, "clip"),
    ("standardised parts", {"method": "nmf", "site": "mlp_post.1", "standardise": True}, BadFit, "standardise"),
    ("no words", {"method": "unembedding"}, BadFit, "words"),
    ("words of no token", {"method": "unembedding", "words": ["two tokens"]}, UnknownToken, "two tokens"),
    ("words at another width", {"method": "unembedding", "words": ["x"], "site": "mlp_post.1"}, NoVectors, "mlp_post"),
    ("words of a head", {"method": "unembedding", "words": ["x"], "head": 1}, BadFit, "head"),
    ("words from a text", {"method": "unembedding", "words": ["x"], "text": TEXT}, BadFit, "text"),
]


@pytest.mark.parametrize(("recipe", "error", "says"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_at_once(one: Session, recipe: dict[str, Any], error: type[Exception], says: str) -> None:
    before = one.snapshot()
    with pytest.raises(error, match=says):
        one.intent("fit", recipe)
    assert one.snapshot() == before


FAILS: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {**PCA, "text": {**TEXT, "text": " \n\n \n"}}, "EmptyCorpus"),
    ("short lines", {**PCA, "text": {**TEXT, "text": "a\n\nb\n\nc"}}, "EmptyCorpus"),
    ("few vectors", {**PCA, "n": 30, "text": {**TEXT, "text": "only a few tokens"}}, "TooFewVectors"),
    ("below zero", {"method": "nmf", "site": "resid_post.1", "text": TEXT}, "NegativeActivations"),
    (
        "the same text",
        {"method": "mean_difference", "site": "resid_post.1", "text": TEXT, "second": TEXT},
        "ZeroDirection",
    ),
    ("no data set", {**PCA, "text": {"kind": "hub", "name": "not a name"}}, "CorpusError"),
]


@pytest.mark.parametrize(("recipe", "type"), [f[1:] for f in FAILS], ids=[f[0] for f in FAILS])
def test_a_fit_that_fails_says_why_and_leaves_nothing(one: Session, recipe: dict[str, Any], type: str) -> None:
    before = wire(one)["model"]
    assert fit(one, **recipe) == []
    error = wire(one)["fit"]["error"]
    assert error["type"] == type
    assert error["message"]
    assert wire(one)["model"] == before
    one.intent("cancel_fit")
    assert wire(one)["fit"] is None
    assert len(fit(one, **PCA)) == 1, "a failed fit does not stand in the way"


def test_a_hub_s_text_is_named_by_its_commit(bare: Session, hub: Any) -> None:
    (row,) = fit(bare, **{**PCA, "n": 2, "text": {"kind": "hub", "name": "someone/stories"}})
    assert row["fitted_on"] == f"hub:someone/stories@{COMMIT}"
    assert f"'hub:someone/stories@{COMMIT}'" in bare.state.model.code[row["id"]]
    assert fit(bare, **{**PCA, "text": {"kind": "hub", "name": "someone/nothing"}}) == []
    assert wire(bare)["fit"]["error"]["type"] == "CorpusError"


def test_progress_goes_up_through_both_stages(bare: Session) -> None:
    seen: list[float] = []
    _, _, stop = bare.subscribe(lambda _, patch: seen.append(patch["fit"]["progress"]) if patch.get("fit") else None)
    fit(bare, method="mean_difference", site="resid_post.1", text=TEXT, second=OTHER, tokens=1000)
    stop()
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert 0.5 < seen[-1] <= 1


def test_another_model_takes_the_fitted_ones_away(bare: Session, tmp_path: Path) -> None:
    fit(bare, **PCA)
    bare.load(worlds.model("gpt2"))
    assert bare.wait(60)
    assert wire(bare)["model"]["dictionaries"] == []
    assert "1 dropped" in wire(bare)["notices"][-1]


def test_fitted_dictionaries_are_there_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = {**TEXT, "text": TEXT["text"] * 3}
    with worlds.session(folder=tmp_path) as session:
        fit(session, **{**PCA, "text": long, "standardise": True})
        fit(session, method="nmf", site="mlp_post.2", text=TEXT, clip=True, n=3, tokens=1000)
        fit(session, method="svd", site="z.3", head=0, text=TEXT, n=3, tokens=1000)
        session.intent("forget_dictionary", {"id": "svd@z.3.h0"})
        before, held = wire(session)["model"]["dictionaries"], session.state.model.dictionaries
        code = session.state.model.code["pca@resid_post.1#2"]
        assert str(tmp_path) in code, "so long a text is not written out"
    with worlds.session(folder=tmp_path) as session:
        assert wire(session)["model"]["dictionaries"] == before
        for id, dictionary in session.state.model.dictionaries.items():
            assert torch.equal(dictionary.read, held[id].read)
            assert torch.equal(dictionary.write, held[id].write)
            assert torch.equal(dictionary.mean, held[id].mean)
        for id in ("pca@resid_post.1#2", "nmf@mlp_post.2"):
            again = _run(session.state.model.code[id], session.state.model.model, {})
            assert torch.equal(again.read, held[id].read)
        session.load(worlds.model("gpt2"))
        assert session.wait(60)
        assert "2 put away" in wire(session)["notices"][-1]
        assert all(row["shipped"] for row in wire(session)["model"]["dictionaries"])
        for row in before:
            if not row["shipped"]:
                with pytest.raises(NotFound):
                    session.intent("forget_dictionary", {"id": row["id"]})


def test_the_last_one_forgotten_leaves_no_file(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        (row,) = fit(session, **PCA)
        assert len([*tmp_path.glob("dictionaries/*")]) == 1
        session.intent("forget_dictionary", {"id": row["id"]})
    assert [*tmp_path.glob("dictionaries/*")] == []


def test_a_damaged_file_is_moved_aside_and_named(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        fit(session, **PCA)
    (file,) = tmp_path.glob("dictionaries/*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with worlds.session(folder=tmp_path) as session:
        (notice,) = wire(session)["notices"]
        (aside,) = tmp_path.glob("dictionaries/*.damaged-*")
        assert str(aside) in notice
        assert aside.read_bytes() == data
        assert all(row["shipped"] for row in wire(session)["model"]["dictionaries"])
        assert len(fit(session, **PCA)) == 1


def test_a_folder_that_cannot_be_written_is_told_and_the_fit_stays(tmp_path: Path) -> None:
    (tmp_path / "dictionaries").write_text("not a folder")
    with worlds.session(folder=tmp_path) as session:
        assert len(fit(session, **PCA)) == 1
        assert "could not be kept" in wire(session)["notices"][-1]
