"""Fitting dictionaries, a method like the rest: beside the live run, whole or not at all, ids that stay true, files that stay."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from loopback_hub import COMMIT
from residscope import directions, fields
from residscope.declare import METHODS, Method
from residscope.errors import (
    BadArguments,
    CorpusError,
    DamagedFile,
    DirectionError,
    MalformedJSON,
    NotFound,
    NoVectors,
    UnknownHead,
    UnknownMethod,
    UnknownSite,
    UnknownToken,
)
from residscope.manifest import own_methods
from residscope.session import Session
from residscope.world import loaded as loaded_module
from session import worlds

TEXT = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "\n\n".join(f"a paragraph, number {n}: {n * n}" for n in range(100)),
}
OTHER = {"kind": "typed", "name": "other.txt", "text": "\n\n".join(f"{n} THINGS TO DO; {n + 7}?" for n in range(120))}
BOTH = {"first": TEXT, "second": OTHER}
PCA = {"method": "pca", "site": "resid_post.1", "corpus": TEXT, "tokens": 1000, "n": 4}
STREAM = {"method": "pca-stream", "corpus": TEXT, "tokens": 1000, "n": 4}
DOCS = {"kind": "builtin", "name": "python-docs"}
OLD = Path(__file__).parent.parent / "kept" / "v0_1"


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


def start(session: Session, *, method: str, **args: Any) -> str:
    """Ask for a method; the job's id."""
    return session.intent("start", {"method": method, "args": args})["job"]


def fit(session: Session, **asked: Any) -> list[dict[str, Any]]:
    """Fit, wait until it is there or has failed; the dictionaries that are new."""
    before = {row["id"] for row in wire(session)["model"]["dictionaries"]}
    start(session, **asked)
    assert session.wait(60)
    return [row for row in wire(session)["model"]["dictionaries"] if row["id"] not in before]


def last(session: Session) -> dict[str, Any]:
    return wire(session)["jobs"][-1]


def names(session: Session) -> list[str]:
    return [item["name"] for item in wire(session)["items"]["items"]]


FITS: list[tuple[dict[str, Any], str, str, int]] = [
    ({**PCA, "standardise": True}, "pca@resid_post.1", "centred", 32),
    ({"method": "pca", "site": "result.1", "head": 2, "n": 3}, "pca@result.1.h2", "centred", 32),
    ({"method": "svd", "site": "z.3", "head": 0, "n": 5}, "svd@z.3.h0", "raw", 8),
    ({"method": "nmf", "site": "mlp_post.2", "n": 3, "clip": True}, "nmf@mlp_post.2", "raw", 48),
    ({"method": "mean-difference", "site": "attn_out.2", "corpora": BOTH}, "mean_difference@attn_out.2", "centred", 32),
    ({"method": "unembedding-rows", "tokens": ["x", "y"]}, "unembedding@resid_post.3", "lens", 32),
]


@pytest.mark.parametrize(("recipe", "id", "space", "width"), FITS, ids=[f[1] for f in FITS])
def test_every_method_gives_what_the_library_gives(
    bare: Session, recipe: dict[str, Any], id: str, space: str, width: int
) -> None:
    asked = recipe
    if recipe["method"] != "unembedding-rows":
        asked = {**({} if "corpora" in recipe else {"corpus": TEXT}), "tokens": 1000, **recipe}
    (row,) = fit(bare, **asked)
    assert last(bare)["phase"] == "done"
    assert {"id": id, "space": space, "width": width, "shipped": False}.items() <= row.items()
    called = {"mean-difference": "mine.txt − other.txt", "unembedding-rows": ""}
    assert row["fitted_on"] == called.get(recipe["method"], "mine.txt")
    assert row["standardised"] is recipe.get("standardise", False)
    found = bare.state.model.dictionary(id)
    given: dict[str, Any] = {}
    again = _run(bare.state.model.code[id], bare.state.model.model, given)
    torch.testing.assert_close(found.read, again.read)
    torch.testing.assert_close(found.mean, again.mean)
    told = bare.reads.dictionary(id)
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
        found = fit(session, **{**STREAM, "method": f"{method}-stream"})
        passes = slow.runs
    assert [row["site"] for row in found] == ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(4))]
    assert passes < 10, "a pass for each row would be five times as many"


def test_components_fitted_with_a_run_beside_them(bare: Session) -> None:
    runs = wire(bare)["runs"]
    with pytest.raises(NotFound, match="without components"):
        bare.reads.dictionary("pca@resid_post.1")
    assert len(fit(bare, method="pca-stream", corpus=DOCS, tokens=1000)) == 5
    assert wire(bare)["runs"] == runs, "a fit makes no run"
    again = rs.pca(bare.state.model.model, "python-docs", "resid_post.1", 30, tokens=1000)
    torch.testing.assert_close(bare.state.model.dictionary("pca@resid_post.1").read, again.read)
    ref = {"kind": "mix", "terms": [{"dictionary": "pca@resid_post.1", "index": 2, "weight": 1.0}]}
    bare.intent(
        "add_edit", {"edit": {"kind": "steer", "site": "resid_post.1", "direction": ref, "strength": 2.0, "unit": "sd"}}
    )
    assert bare.wait(60)
    assert "rs.pca(" in bare.intent("python", {"direction": ref})["code"]
    offset = load(bare.reads.coef(wire(bare)["current"]["a"], dictionary="pca@resid_post.1"))["offset"]
    assert offset.isfinite().all()


def test_a_second_one_of_the_same_place_has_a_number(bare: Session) -> None:
    ids = [fit(bare, **{**PCA, "n": n})[0]["id"] for n in (2, 3)]
    assert ids == ["pca@resid_post.1", "pca@resid_post.1#2"]
    assert [len(bare.reads.dictionary(id)["components"]) for id in ids] == [2, 3]
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


@pytest.mark.parametrize("asked", [PCA, STREAM], ids=["one place", "the stream"])
def test_a_cancelled_fit_leaves_nothing(bare: Session, asked: dict[str, Any]) -> None:
    slow = worlds.Slow(bare.state.model.model)
    with worlds.session(slow) as session:
        before = wire(session)
        slow.entered.clear()
        slow.gate.clear()
        job = start(session, **asked)
        assert slow.entered.wait(30)
        assert (last(session)["method"], last(session)["phase"]) == (asked["method"], "running")
        session.intent("cancel", {"job": job})
        slow.gate.set()
        assert session.wait(60)
        assert last(session)["phase"] == "cancelled"
        session.intent("cancel", {"job": job})
        assert wire(session) == before, "once the line is put away, all is as it was"
        assert len(fit(session, **PCA)) == 1, "and the next one is as if nothing had been"


def test_a_second_fit_waits_for_the_first(bare: Session) -> None:
    slow = worlds.Slow(bare.state.model.model)
    with worlds.session(slow) as session:
        slow.entered.clear()
        slow.gate.clear()
        start(session, **PCA)
        assert slow.entered.wait(30)
        start(session, **{**PCA, "n": 2})
        assert [job["phase"] for job in wire(session)["jobs"]] == ["running", "waiting"]
        slow.gate.set()
        assert session.wait(60)
        assert [row["n"] for row in wire(session)["model"]["dictionaries"]] == [4, 2]


ROWS = {"method": "unembedding-rows"}
REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("unknown method", {**PCA, "method": "ica"}, UnknownMethod, "method"),
    ("no text", {"method": "pca", "site": "resid_post.1"}, BadArguments, "corpus"),
    ("unknown text", {**PCA, "corpus": {"kind": "builtin", "name": "/etc/hosts.txt"}}, CorpusError, "python-docs"),
    ("lines without text", {**PCA, "corpus": {**TEXT, "name": "a.jsonl"}}, CorpusError, "line 1 of a.jsonl"),
    ("no tokens", {**PCA, "tokens": 0}, BadArguments, "tokens"),
    ("many tokens", {**PCA, "tokens": 10_000_000_000}, BadArguments, "tokens"),
    ("no components", {**PCA, "n": 0}, BadArguments, "n: "),
    ("more than the width", {**PCA, "n": 33}, DirectionError, "1 to 32"),
    ("more than a head's width", {**PCA, "site": "z.1", "head": 1, "n": 9}, DirectionError, "1 to 8"),
    ("more than the stream's width", {**STREAM, "n": 33}, DirectionError, "1 to 32"),
    ("more parts than the width", {**PCA, "method": "nmf", "n": 33}, DirectionError, "1 to 32"),
    ("unknown site", {**PCA, "site": "nowhere"}, UnknownSite, "nowhere"),
    ("unknown site of several", {**STREAM, "sites": ["stream", "nowhere"]}, UnknownSite, "nowhere"),
    ("no vectors", {**PCA, "site": "pattern.1"}, NoVectors, "pattern.1"),
    ("no head", {**PCA, "site": "z.1"}, UnknownHead, "which"),
    ("no such head", {**PCA, "site": "z.1", "head": 4}, UnknownHead, "0 to 3"),
    ("a head where there is none", {**PCA, "head": 1}, UnknownHead, "head"),
    ("a head of the stream", {**STREAM, "head": 1}, UnknownHead, "head"),
    ("nowhere", {"method": "pca", "corpus": TEXT}, BadArguments, "site"),
    ("parts of the stream", {**PCA, "method": "nmf", "site": "stream"}, UnknownSite, "stream"),
    (
        "one text",
        {"method": "mean-difference", "site": "resid_post.1", "corpora": {"first": TEXT}},
        BadArguments,
        "second",
    ),
    ("two texts", {**PCA, "corpora": BOTH}, BadArguments, "corpora"),
    (
        "a difference nowhere",
        {"method": "mean-difference", "site": "pattern.1", "corpora": BOTH},
        NoVectors,
        "pattern.1",
    ),
    ("clipped components", {**PCA, "clip": True}, BadArguments, "clip"),
    ("standardised parts", {**PCA, "method": "nmf", "standardise": True}, BadArguments, "standardise"),
    ("no words", ROWS, BadArguments, "tokens"),
    ("words of no token", {**ROWS, "tokens": ["two tokens"]}, UnknownToken, "two tokens"),
    ("words at another width", {**ROWS, "tokens": ["x"], "site": "mlp_post.1"}, NoVectors, "mlp_post"),
    ("words of a head", {**ROWS, "tokens": ["x"], "head": 1}, BadArguments, "head"),
    ("words from a text", {**ROWS, "tokens": ["x"], "corpus": TEXT}, BadArguments, "corpus"),
]


@pytest.mark.parametrize(("recipe", "error", "says"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_at_once(one: Session, recipe: dict[str, Any], error: type[Exception], says: str) -> None:
    before = one.snapshot()
    with pytest.raises(error, match=says):
        start(one, **recipe)
    assert one.snapshot() == before


def test_a_start_without_a_method_is_refused(one: Session) -> None:
    with pytest.raises(MalformedJSON, match="method"):
        one.intent("start", {"args": {}})


@pytest.mark.parametrize("recipe", [f[0] for f in FITS] + [STREAM], ids=[f[1] for f in FITS] + ["the stream"])
def test_what_it_takes_is_said_before(one: Session, recipe: dict[str, Any]) -> None:
    """The price of reading a text is its tokens through the layers up to the place; of words nothing."""
    method, args = recipe["method"], {name: value for name, value in recipe.items() if name != "method"}
    if method == "unembedding-rows":
        assert one.reads.cost(method, args) == {"seconds": 0.0}
        return
    text = {} if "corpora" in args else {"corpus": TEXT}
    args = {**text, **args}

    def seconds(**more: Any) -> float:
        return one.reads.cost(method, args | more)["seconds"]

    assert seconds(tokens=40_000) == pytest.approx(2 * seconds(tokens=20_000))
    through = {"resid_post.1": 2, "result.1": 2, "z.3": 4, "mlp_post.2": 3, "attn_out.2": 3}.get(
        args.get("site", ""), 4
    )
    whole = one.reads.cost("pca", {"corpus": TEXT, "site": "resid_post.3"})["seconds"] / 4
    assert seconds(tokens=20_000) == pytest.approx(whole * through * (2 if "corpora" in args else 1))


FAILS: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {**PCA, "corpus": {**TEXT, "text": " \n\n \n"}}, "EmptyCorpus"),
    ("short lines", {**PCA, "corpus": {**TEXT, "text": "a\n\nb\n\nc"}}, "EmptyCorpus"),
    ("few vectors", {**PCA, "n": 30, "corpus": {**TEXT, "text": "only a few tokens"}}, "TooFewVectors"),
    ("below zero", {"method": "nmf", "site": "resid_post.1", "corpus": TEXT}, "NegativeActivations"),
    (
        "the same text",
        {"method": "mean-difference", "site": "resid_post.1", "corpora": {"first": TEXT, "second": TEXT}},
        "ZeroDirection",
    ),
    ("no data set", {**PCA, "corpus": {"kind": "hub", "name": "not a name"}}, "CorpusError"),
]


@pytest.mark.parametrize(("recipe", "type"), [f[1:] for f in FAILS], ids=[f[0] for f in FAILS])
def test_a_fit_that_fails_says_why_and_leaves_nothing(one: Session, recipe: dict[str, Any], type: str) -> None:
    before = wire(one)["model"]
    assert fit(one, **recipe) == []
    assert last(one)["phase"] == "failed"
    assert last(one)["error"]["type"] == type
    assert last(one)["error"]["message"]
    assert wire(one)["model"] == before
    assert names(one) == []
    one.intent("cancel", {"job": last(one)["id"]})
    assert wire(one)["jobs"] == []
    assert len(fit(one, **PCA)) == 1, "a failed fit does not stand in the way"


def test_a_hub_s_text_is_named_by_its_commit(bare: Session, hub: Any) -> None:
    (row,) = fit(bare, **{**PCA, "n": 2, "corpus": {"kind": "hub", "name": "someone/stories"}})
    assert row["fitted_on"] == f"hub:someone/stories@{COMMIT}"
    assert f"'hub:someone/stories@{COMMIT}'" in bare.state.model.code[row["id"]]
    (name,) = names(bare)
    assert bare.reads.item(name)["args"]["corpus"]["name"] == f"someone/stories@{COMMIT}", (
        "and so it is fitted again on the same"
    )
    assert f"'hub:someone/stories@{COMMIT}'" in bare.reads.item(name)["code"]
    assert fit(bare, **{**PCA, "corpus": {"kind": "hub", "name": "someone/nothing"}}) == []
    assert last(bare)["error"]["type"] == "CorpusError"


def test_progress_goes_up_through_each_stage(bare: Session) -> None:
    seen: dict[str, list[float]] = {}

    def told(_: int, patch: dict[str, Any]) -> None:
        for job in patch.get("jobs", ()):
            if job["progress"] is not None:
                seen.setdefault(job["stage"], []).append(job["progress"])

    _, _, stop = bare.subscribe(told)
    fit(bare, method="mean-difference", site="resid_post.1", corpora=BOTH, tokens=1000)
    stop()
    assert [stage for stage in seen if stage.startswith("Reading")] == ["Reading mine.txt", "Reading other.txt"]
    for shares in seen.values():
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] <= 1


def test_another_model_takes_the_fitted_ones_away(bare: Session, tmp_path: Path) -> None:
    fit(bare, **PCA)
    bare.load(worlds.model("gpt2"))
    assert bare.wait(60)
    assert wire(bare)["model"]["dictionaries"] == []
    assert "1 dropped" in wire(bare)["notices"][-1]


def test_fitted_dictionaries_are_there_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = {**TEXT, "text": TEXT["text"] * 3}
    with worlds.session(folder=tmp_path) as session:
        fit(session, **{**PCA, "corpus": long, "standardise": True})
        fit(session, method="nmf", site="mlp_post.2", corpus=TEXT, clip=True, n=3, tokens=1000)
        fit(session, method="svd", site="z.3", head=0, corpus=TEXT, n=3, tokens=1000)
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
        session.load(worlds.model())
        assert session.wait(60)
        assert wire(session)["model"]["dictionaries"] == before, "another model and back"


def test_the_last_one_forgotten_leaves_no_file(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        (row,) = fit(session, **PCA)
        assert len(files(tmp_path)) == 2
        session.intent("forget_dictionary", {"id": row["id"]})
        assert names(session) == []
    assert files(tmp_path) == []


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("items/*/*") if path.is_file() and path.name != ".lock"]


def test_a_damaged_file_is_moved_aside_and_named(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        fit(session, **PCA)
    (file,) = tmp_path.glob("items/*/*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with worlds.session(folder=tmp_path) as session:
        (notice,) = wire(session)["notices"]
        (aside,) = tmp_path.glob("items/*/*.safetensors.damaged-*")
        assert aside.name.split(".")[0] in notice
        assert aside.read_bytes() == data
        assert all(row["shipped"] for row in wire(session)["model"]["dictionaries"])
        assert len(fit(session, **PCA)) == 1


def test_one_of_a_place_the_model_has_not_is_moved_aside(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        fit(session, **PCA)
    (file,) = tmp_path.glob("items/*/*.safetensors")
    eye = torch.eye(7)
    directions.Dictionary("pca", "resid_post.1", eye, eye, torch.zeros(7)).save(file)
    with worlds.session(folder=tmp_path) as session:
        assert all(row["shipped"] for row in wire(session)["model"]["dictionaries"])
        assert len(wire(session)["notices"]) == 1


def test_a_folder_that_cannot_be_written_is_told_and_the_fit_stays(tmp_path: Path) -> None:
    (tmp_path / "items").write_text("not a folder")
    with worlds.session(folder=tmp_path) as session:
        assert len(fit(session, **PCA)) == 1
        assert "could not be written down" in last(session)["note"]


# ── items of the shelf, and dictionaries of the model ───────────────────────────────────────────────────────────


def test_every_dictionary_is_an_item_and_every_item_a_dictionary(bare: Session) -> None:
    ids = [row["id"] for row in fit(bare, **STREAM)]
    assert names(bare) == [
        f"Principal components of {site}" for site in ["resid_pre.0", *(f"resid_post.{n}" for n in range(4))]
    ]
    assert ids == [f"pca@{name.removeprefix('Principal components of ')}" for name in names(bare)]
    bare.intent("rename_item", {"name": names(bare)[2], "to": "mine"})
    assert [row["id"] for row in wire(bare)["model"]["dictionaries"]] == ids, (
        "its id stays what edits and links know it by"
    )
    bare.intent("delete_item", {"name": "mine"})
    assert [row["id"] for row in wire(bare)["model"]["dictionaries"]] == [id for id in ids if id != ids[2]]
    with pytest.raises(NotFound):
        bare.reads.dictionary(ids[2])
    bare.intent("restore_item")
    assert bare.reads.dictionary(ids[2])["id"] == ids[2]
    bare.intent("forget_dictionary", {"id": ids[0]})
    assert names(bare) == [f"Principal components of resid_post.{n}" for n in (0, 2, 3)] + ["mine"]


def test_one_row_of_the_stream_says_how_it_alone_is_fitted(bare: Session) -> None:
    fit(bare, **STREAM)
    item = bare.reads.item("Principal components of resid_post.2")
    assert (item["method"], item["args"]["site"], item["args"]["n"]) == ("pca", "resid_post.2", 4)
    assert "sites" not in item["args"]
    again = _run(bare.state.model.code["pca@resid_post.2"], bare.state.model.model, {})
    torch.testing.assert_close(again.read, bare.state.model.dictionary("pca@resid_post.2").read)
    assert fit(bare, method="pca", **item["args"])[0]["id"] == "pca@resid_post.2#2"


def test_every_method_that_makes_dictionaries_is_tried_here() -> None:
    made = {method.id for method in own_methods().values() if method.makes == "dictionary"}
    assert made == {recipe["method"] for recipe, *_ in FITS} | {"pca-stream", "svd-stream", "sae-load"}


def test_one_that_no_single_line_makes_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eye = torch.eye(32)

    def ours(model: Any, prompts: Annotated[Any, fields.prompts(one=True)]) -> directions.Dictionary:
        return directions.Dictionary("ours", "resid_post.1", eye, eye, torch.zeros(32))

    monkeypatch.setitem(METHODS, "ours", Method("ours", "Ours", ours))
    with worlds.session(folder=tmp_path) as session:
        (row,) = fit(session, method="ours", prompts="a prompt")
        code = session.state.model.code[row["id"]]
        assert "load_item" in code
        assert torch.equal(_run(code, session.state.model.model, {}).read, eye)
        assert "import ours" in session.reads.item("Ours of resid_post.1")["code"], (
            "and the whole call is told all the same"
        )


def test_a_name_is_given_to_what_is_fitted(bare: Session) -> None:
    args = {name: value for name, value in PCA.items() if name != "method"}
    bare.intent("start", {"method": "pca", "args": args, "name": "mine"})
    assert bare.wait(60)
    assert names(bare) == ["mine of resid_post.1"]


def test_a_dictionary_s_file_comes_back_as_the_model_s(bare: Session, tmp_path: Path) -> None:
    fit(bare, **PCA)
    _, data = bare.reads.item_file("Principal components of resid_post.1", ".safetensors")
    kept = bare.state.model.dictionary("pca@resid_post.1")
    with worlds.session(folder=tmp_path) as session:
        assert session.import_item(data, "theirs")["name"] == "theirs"
        row = wire(session)["model"]["dictionaries"][-1]
        assert (row["id"], row["shipped"]) == ("pca@resid_post.1", False)
        assert torch.equal(session.state.model.dictionary(row["id"]).read, kept.read)
        assert torch.equal(_run(session.state.model.code[row["id"]], session.state.model.model, {}).read, kept.read)
        session.intent("rename_item", {"name": "theirs", "to": "ours"})
        assert torch.equal(_run(session.state.model.code[row["id"]], session.state.model.model, {}).read, kept.read)
    directions.save(tmp_path / "several.safetensors", [kept, kept], bare.state.model.model)
    bare.import_item((tmp_path / "several.safetensors").read_bytes(), "all")
    assert [row["id"] for row in wire(bare)["model"]["dictionaries"]] == [
        "pca@resid_post.1",
        "pca@resid_post.1#2",
        "pca@resid_post.1#3",
    ]


def test_one_of_another_model_s_weights_is_told_to_be(bare: Session) -> None:
    fit(bare, **PCA)
    _, data = bare.reads.item_file("Principal components of resid_post.1", ".safetensors")
    bare.import_item(data, "its own")
    assert wire(bare)["notices"] == []
    with worlds.session(worlds.model("gpt2")) as session:
        session.import_item(data, "theirs")
        assert wire(session)["notices"] == ["theirs was fitted on other weights than this model's."]


def test_one_that_fits_nowhere_is_not_taken_in(bare: Session, tmp_path: Path) -> None:
    eye = torch.eye(7)
    directions.Dictionary("pca", "resid_post.1", eye, eye, torch.zeros(7)).save(tmp_path / "seven.safetensors")
    before = bare.snapshot()
    with pytest.raises(DamagedFile, match="width 7, not 32"):
        bare.import_item((tmp_path / "seven.safetensors").read_bytes(), "seven")
    assert bare.snapshot() == before


def test_those_of_version_0_1_open_and_are_forgotten_beside_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_module, "shipped", lambda model: {})
    model = rs.load(str(OLD / "model"))
    shutil.copytree(OLD / "session", tmp_path / "data")
    (file,) = (tmp_path / "data" / "dictionaries").glob("*.safetensors")
    with worlds.session(model, folder=tmp_path / "data") as session:
        old = [row["id"] for row in wire(session)["model"]["dictionaries"] if not row["shipped"]]
        assert len(old) > 1
        found = session.state.model.dictionary(old[0])
        assert torch.equal(_run(session.state.model.code[old[0]], model, {}).read, found.read)
        (new,) = fit(session, **{**PCA, "site": found.site, "head": found.head, "n": 2})
        assert (new["id"] in old) is False
        session.intent("forget_dictionary", {"id": old[0]})
        assert [*directions.read(file, model)] == old[1:], "the new one is not written to the old file"
    with worlds.session(model, folder=tmp_path / "data") as session:
        ids = [row["id"] for row in wire(session)["model"]["dictionaries"] if not row["shipped"]]
        assert ids == [*old[1:], new["id"]]
        for id in old[1:]:
            session.intent("forget_dictionary", {"id": id})
        assert not file.exists()
        assert [row["id"] for row in wire(session)["model"]["dictionaries"]] == [new["id"]]


def test_what_ends_after_another_model_came_is_not_kept(bare: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it stop what comes after it."""
    gate, entered = threading.Event(), threading.Event()
    eye = torch.eye(32)

    def two(model: Any) -> Iterator[directions.Dictionary]:
        yield directions.Dictionary("pca", "resid_post.1", eye, eye, torch.zeros(32))
        entered.set()
        assert gate.wait(30)
        yield directions.Dictionary("pca", "resid_post.2", eye, eye, torch.zeros(32))

    monkeypatch.setitem(METHODS, "two", Method("two", "Two", two))
    start(bare, method="two")
    assert entered.wait(30)
    bare.load(worlds.model("gpt2"))
    assert bare._worker.wait(60)
    gate.set()
    assert bare.wait(60)
    assert names(bare) == []
    assert len(fit(bare, **PCA)) == 1
