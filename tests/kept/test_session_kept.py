"""What a page of version 0.1 said to its session is understood as it was; its folder and its links open as they did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import residscope as rs
from kept.replay import MOVED, opened, say, settle, state_of
from kept.told import HERE, NUMBERS, lacking, lines
from residscope.declare import EDITS
from residscope.directions import read
from residscope.engine.model import Model
from residscope.errors import DamagedFile, MalformedJSON, ResidscopeError
from residscope.session import Session
from residscope.session.intents import INTENTS
from residscope.world import loaded

TOLD = NUMBERS["session"]
LINKS = {link["name"]: link for link in json.loads((HERE / "links.json").read_text())}
FILE = next((HERE / "session" / "dictionaries").iterdir())


@pytest.fixture(scope="module")
def model() -> Model:
    return rs.load(str(HERE / "model"))


@pytest.fixture(scope="module")
def said(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole stream of a page, said to a new session: the session, and its answers."""
    with opened(model, folder=tmp_path_factory.mktemp("data")) as session:
        yield session, say(session, lines("intents.jsonl"), HERE)


# ── the stream of intents ───────────────────────────────────────────────────────────────────────────────────────


def test_the_stream_holds_every_intent_and_every_kind_of_edit_of_version_0_1() -> None:
    intents = {line["intent"] for line in lines("intents.jsonl") if "intent" in line}
    assert intents == {
        "add_edit", "cancel_evidence", "cancel_fit", "cancel_probe", "compare_run", "fit", "fit_probe", "forget_dictionary",
        "forget_prompt", "gather_evidence", "load_model", "python", "read_data", "redo", "restore_run", "save_prompt", "select",
        "set_edits", "set_metric", "set_prompt", "undo",
    }  # fmt: skip
    stack = next(line["args"]["edits"] for line in lines("intents.jsonl") if line.get("intent") == "set_edits")
    assert {edit["kind"] for edit in stack} == {
        "ablate", "freeze", "lrqp", "project_out", "scale", "set_concept", "steer",
    }  # fmt: skip
    assert {edit["direction"]["kind"] for edit in stack if "direction" in edit} == {
        "logit_diff",
        "mix",
        "pca",
        "saved",
        "token",
    }
    assert intents <= {*INTENTS, *MOVED}
    assert {edit["kind"] for edit in stack} <= {*EDITS}


def test_each_is_answered_as_it_was(said: tuple[Session, list[Any]]) -> None:
    for line, was, answer in zip(lines("intents.jsonl"), lines("answers.jsonl"), said[1], strict=True):
        if line.get("intent") in MOVED and line["intent"] != "read_data":
            continue
        if line.get("intent") == "python":
            assert {*was["value"]} <= {*answer}
        else:
            assert lacking(was["value"], json.loads(json.dumps(answer))) == [], line


def test_the_state_it_comes_to_has_what_it_had(said: tuple[Session, list[Any]]) -> None:
    was, now = json.loads((HERE / "state.json").read_text()), state_of(said[0])
    gone = {
        ".evidence",
        ".fit",
        ".probing",
        ".edits.head",
        ".edits.kv_head",
        ".edits.neuron",
    }  # an edit made from a probe has none, and says none
    assert {*lacking(shape(was), shape(now))} <= gone
    for part in ("prompt", "metric", "selection", "directions", "can_undo", "can_redo"):
        assert lacking(was[part], now[part]) == [], part
    assert [entry["text"] for entry in now["saved"]] == TOLD["saved"]
    assert lacking([plain(edit) for edit in was["edits"]], [plain(edit) for edit in now["edits"]]) == []
    for a, b in zip(was["edits"], now["edits"], strict=True):
        assert words(a["label"]) <= words(b["label"]), "what it is called says more by now, and nothing else"
    assert [info["id"] for info in now["model"]["dictionaries"]] == [
        info["id"] for info in was["model"]["dictionaries"]
    ]
    for a, b in zip(was["probes"], now["probes"], strict=True):
        assert (a["name"], a["classes"], a["train"], a["held_out"]) == (
            b["name"],
            b["classes"],
            b["train"],
            b["held_out"],
        )
        assert b["accuracy"] == pytest.approx(a["accuracy"], abs=0.05)


def test_its_runs_give_the_numbers_they_gave(said: tuple[Session, list[Any]]) -> None:
    was, now = json.loads((HERE / "state.json").read_text()), state_of(said[0])
    for a, b in zip(shown(was), shown(now), strict=True):
        assert (b["edits"], b["prompt"]) == (a["edits"], a["prompt"])
        assert words(a["label"]) <= words(b["label"])
        assert b["metric"] == pytest.approx(a["metric"], abs=2e-2)  # its edits stand on fits of today's
    base = next(run for run in shown(now) if not run["edits"])
    for top, (id, text, p) in zip(base["top"], TOLD["unedited"], strict=False):
        assert (top["id"], top["text"], top["p"]) == (id, text, pytest.approx(p, rel=1e-3))


def test_the_python_that_the_page_gave_runs_as_pasted(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(answer["value"]["code"] for answer in lines("answers.jsonl") if "code" in (answer["value"] or {}))
    table = next(line["args"]["data"] for line in lines("intents.jsonl") if line.get("intent") == "read_data")
    (tmp_path / table["name"]).write_text(table["text"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rs, "load", lambda name: {"kept": model}[name])
    exec(compile(code, "pasted", "exec"), {})
    first, second, metrics = capsys.readouterr().out.strip().split("\n")
    assert repr(TOLD["unedited"][0][1]) in first
    assert first != second
    was = shown(json.loads((HERE / "state.json").read_text()))
    assert [float(number) for number in metrics.split()] == pytest.approx(sorted_by_edits(was), abs=2e-2)


@pytest.mark.parametrize(
    "line",
    [line for line in lines("intents.jsonl") if "intent" in line and line["intent"] not in MOVED],
    ids=lambda line: line["intent"],
)
def test_a_line_with_more_in_it_than_is_known_is_refused(said: tuple[Session, list[Any]], line: dict[str, Any]) -> None:
    before = state_of(said[0])
    with pytest.raises(MalformedJSON, match=line["intent"]):
        said[0].intent(line["intent"], {**line["args"], "of a later version": 1})
    assert state_of(said[0])["edits"] == before["edits"]


def shape(value: Any) -> Any:
    """Keys alone; of a list the keys that all its members have."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items() if not (key in OPEN and isinstance(part, dict))}
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        common = set.intersection(*({*part} for part in value))
        return dict.fromkeys(sorted(common))
    return None


OPEN = {"weights"}  # whose keys are the user's
RESULTS = {"delta", "inert", "label"}  # of an edit: filled in when there is time; what it is called says more by now


def words(label: str) -> set[str]:
    return {*label.replace(",", "").split()} - {"+"}


def plain(edit: dict[str, Any]) -> dict[str, Any]:
    """What it asks for: that it has no head, 0.1 wrote down where there could be none."""
    return {key: part for key, part in edit.items() if key not in RESULTS and part is not None}


def shown(state: dict[str, Any]) -> list[dict[str, Any]]:
    ends = (state["current"]["a"], state["current"]["b"])
    return [run for run in state["runs"] if run["id"] in ends]


def sorted_by_edits(runs: list[dict[str, Any]]) -> list[float]:
    return [run["metric"] for run in sorted(runs, key=lambda run: run["edits"])]


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_its_folder_opens_with_prompts_and_fitted_dictionaries(model: Model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / "session", tmp_path / "data"))
    with opened(model, folder=folder) as session:
        state = state_of(session)
        assert state["notices"] == []
        assert [entry["text"] for entry in state["saved"]] == [*TOLD["saved"], NUMBERS["smollm2"]["saved"]]
        assert [info["id"] for info in state["model"]["dictionaries"]] == list(TOLD["fitted"])
        for id, told in TOLD["fitted"].items():
            found = session.state.model.dictionary(id)
            assert (len(found), found.site, found.head) == (told["n"], told["site"], told["head"])
            torch.testing.assert_close(found.read[0, :4], torch.tensor(told["first"]), rtol=1e-6, atol=1e-7)
        for id, text in TOLD["tops"].items():
            assert session.reads.dictionary(id)["components"][0]["top"][0]["text"] == text
        session.intent("save_prompt", {"text": "one more"})
    assert len(json.loads((folder / "prompts.json").read_text())["prompts"]) == 4


@pytest.mark.parametrize("name", ["prompts.json", f"dictionaries/{FILE.name}"])
def test_a_damaged_file_of_its_folder_is_moved_aside_and_named(model: Model, tmp_path: Path, name: str) -> None:
    data = (HERE / "session" / name).read_bytes()
    for i, copy in enumerate((b"", data[: len(data) // 2], data[:-1])):
        folder = Path(shutil.copytree(HERE / "session", tmp_path / f"{i}"))
        (folder / name).write_bytes(copy)
        with opened(model, folder=folder) as session:
            (notice,) = state_of(session)["notices"]
        (aside,) = folder.glob(f"{name}.damaged-*")
        assert str(aside) in notice
        assert aside.read_bytes() == copy


# ── directions' files and links ─────────────────────────────────────────────────────────────────────────────────


def test_directions_files_are_imported(model: Model) -> None:
    with opened(model) as session:
        settle(session)
        assert say(session, [{"import": "direction.safetensors"}], HERE) == [{"kind": "saved", "name": "kept for good"}]
        d = session.state.directions["kept for good"]
        told = next(v for id, v in NUMBERS["library"]["vectors"].items() if id in LINKS["everything"]["query"])
        assert (d.read.tolist(), d.write.tolist(), d.offset, d.scale) == (
            told["read"], told["write"], told["offset"], told["scale"],
        )  # fmt: skip
        say(session, [{"import": "direction-of-another-program.safetensors"}], HERE)
        d, facts = session.state.directions["somebody's own"], NUMBERS["direction"]["another program's"]
        assert (d.site, d.offset) == (facts["site"], float(facts["offset"]))
        assert float(d.read.norm()) == pytest.approx(facts["norm"])
        data = (HERE / "direction.safetensors").read_bytes()
        with pytest.raises(DamagedFile, match="kept for good"):
            session.import_direction(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ResidscopeError):
            session.import_direction(data[:-1])


def test_a_link_with_everything_is_restored(said: tuple[Session, list[Any]]) -> None:
    """As the page restores it (web/tests/kept.test.ts): its probes fitted, then prompt, answers and edits."""
    session, shared = said[0], LINKS["everything"]["shared"]
    before = state_of(session)
    for probe in before["probes"]:  # the stream's, which are of the same data
        session.intent("delete_item", {"name": probe["item"]})
    say(session, [{"intent": "fit_probe", "args": args} for args in fits(shared)], HERE)
    (fitted,) = state_of(session)["probes"]
    assert {part: fitted[part] for part in fits(shared)[0]} == fits(shared)[0]
    edits = [{**edit, "probe": fitted["name"]} if "probe" in edit else edit for edit in shared["edits"]]
    shared = {**shared, "edits": edits}
    say(session, [{"intent": intent, "args": args} for intent, args in sent(shared)], HERE)
    state = state_of(session)
    assert (state["prompt"]["text"], state["prompt"]["bos"]) == (shared["prompt"], shared["bos"])
    assert lacking([plain(edit) for edit in shared["edits"]], [plain(edit) for edit in state["edits"]]) == []
    assert [edit["error"] for edit in state["edits"]] == [None] * len(shared["edits"])
    assert state["model"]["hash"] == shared["hash"] == before["model"]["hash"]


def test_a_link_on_the_default_model_gives_its_numbers(smollm2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the components that shipped then. The page says of such a link that it does not tell which it means."""
    shared = LINKS["the default model"]["shared"]
    assert shared["hash"] == smollm2.hash
    then = read(HERE / "shipped.safetensors", smollm2)
    monkeypatch.setattr(loaded, "shipped", lambda model: {d.site: d for d in then.values()})
    with opened(smollm2) as session:
        say(session, [{"intent": intent, "args": args} for intent, args in sent(shared)], HERE)
        state = state_of(session)
    assert sorted_by_edits(shown(state)) == pytest.approx(NUMBERS["smollm2"]["metrics"], abs=1e-3)
    assert [edit["enabled"] for edit in state["edits"]] == [True, False, True]


def fits(shared: dict[str, Any]) -> list[dict[str, Any]]:
    """What a page has fitted first."""
    return [{k: v for k, v in probe.items() if k != "name"} for probe in shared["probes"]]


def sent(shared: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The intents that a page sends then for what a link holds."""
    metric = [("set_metric", shared["metric"])] if shared["metric"] else []
    prompt = ("set_prompt", {"text": shared["prompt"], "bos": shared["bos"]})
    return [prompt, *metric, ("set_edits", {"edits": shared["edits"]})]
