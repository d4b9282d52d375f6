"""The shelf: whole items or none whatever happens, names of every script, a budget, an undo, and files that are the items."""

import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import residscope as rs
from residscope.engine.generation import Generation
from residscope.errors import BadText, DamagedFile, NameTaken, NotFound, NotWritten, ShelfFull, WrongEnding, WrongModel
from residscope.methods._lib.answers import flips
from residscope.results import Result
from residscope.shelf import items as shelf_module
from residscope.shelf.items import MOST_ITEMS, ItemShelf, Kept
from residscope.shelf.shown import ENDINGS, table_of, text_of
from session import worlds
from session.test_copied import differing

NAMES = [
    "PCA",
    "pca",
    "Pca ",
    "PCA!",
    "残差流",
    "Остаточный поток",
    "مسیر باقی‌مانده",
    "זרם שיורי",
    "ไทย",
    "हिन्दी",
    "👩‍🔬🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "a/b\\c",
    "..",
    ".",
    "CON",
    "nul",
    "*?<>|:\"'",
    "é",
    "e\u0301",
    "x" * 120,
    "-",
    "%20",
    "$HOME",
    "~",
    "{}",
    "new.json",
    ".lock",
]


def some(*values: float) -> Result:
    return Result(torch.tensor(values or (1.0, 2.0)), ("pos",), provenance={"method": "made"})


def opened(folder: Path | None, family: str = "llama", **options: Any) -> ItemShelf:
    shelf = ItemShelf(folder, **options)
    assert shelf.open(worlds.model(family)) == []
    return shelf


def place_of(folder: Path) -> Path:
    (place,) = (folder / "items").iterdir()
    return place


def things() -> dict[str, Any]:
    """One of everything that a shelf holds."""
    model = worlds.model()
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    return {
        "result": Result(
            torch.tensor([[1.0, float("nan")], [1 / 3, 1e-300]], dtype=torch.float64), ("layer", "pos"), unit="logits"
        ),
        "direction": rs.Direction(vector, vector, "resid_pre.2", name="arrow"),
        "dictionary": worlds.components(model)["resid_post.1"],
        "prompts": rs.PromptSet(((1, 2, 3), (4, 5)), labels={"kind": ("a", "b")}),
        "recording": model.run("abc", ["resid_pre"]),
        "generation": model.generate("abc", max_new_tokens=2),
        "report": rs.removal_cost(model, rs.Direction(vector, vector, "resid_pre.2"), ["abcde", "fghij"], random=19),
    }


# ── killed, damaged, not written ────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_killed_at_any_moment_it_has_whole_items_or_none(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path), "abc", "25"]
    env = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=True)
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == 25
    assert [told for told in rounds if told["notices"] or told["odd"] or told["twice"] or told["files"]] == []
    assert rounds[-1]["items"] > 5  # it was at work each time


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _told(**changed: Any) -> Any:
    def change(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


DAMAGE = {
    "json cut": (".json", _cut),
    "json empty": (".json", lambda file: file.write_bytes(b"")),
    "tensors cut": (".safetensors", _cut),
    "a bit": (".safetensors", _flip),
    "no tensors": (".safetensors", Path.unlink),
    "a list": (".json", lambda file: file.write_text("[]")),
    "deep": (".json", lambda file: file.write_text("[" * 100_000)),
    "not text": (".json", lambda file: file.write_bytes(b"\xff\xfe\x00")),
    "another version": (".json", _told(version=2)),
    "no name": (".json", _told(name=None)),
    "a list for a name": (".json", _told(name=["a"])),
    "an evil name": (".json", _told(name="a\nb")),
    "args of another kind": (".json", _told(args=3)),
    "a date in words": (".json", _told(made="now")),
    "a key less": (".json", lambda file: file.write_text('{"version": 1}')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_item_is_moved_aside_and_named_and_the_others_are_there(tmp_path: Path, damage: str) -> None:
    shelf = opened(tmp_path)
    for name in ("first", "second", "third"):
        shelf.put(Kept(name, some()))
    ending, spoil = DAMAGE[damage]
    file = shelf.find("second").file
    assert file is not None
    spoil(file.with_suffix(ending))
    again = ItemShelf(tmp_path)
    notices = again.open(worlds.model())
    assert [*again.items] == ["first", "third"]
    assert len(notices) == 1
    assert "second" in notices[0]
    assert "moved to" in notices[0]
    assert any(".damaged-" in file.name for file in place_of(tmp_path).iterdir())
    assert ItemShelf(tmp_path).open(worlds.model()) == []  # once only


def test_what_a_killed_process_had_begun_is_swept_up_and_nothing_is_said(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    kept = shelf.put(Kept("whole", some()))
    place = place_of(tmp_path)
    assert kept.file is not None
    for name in ("orphan-1.safetensors", ".orphan-2.safetensors.ab12", ".orphan-3.json.xyz", ".tmpAbCd"):
        (place / name).write_bytes(kept.file.read_bytes())
    assert [*opened(tmp_path).items] == ["whole"]
    assert {file.suffix for file in place.iterdir() if file.name != ".lock"} == {".json", ".safetensors"}
    assert len([*place.iterdir()]) <= 3


def test_another_process_at_work_is_not_swept_away(tmp_path: Path) -> None:
    from filelock import FileLock

    shelf = opened(tmp_path)
    shelf.put(Kept("whole", some()))
    half = place_of(tmp_path) / "half-way.safetensors"
    half.write_bytes(b"...")
    with FileLock(str(place_of(tmp_path) / ".lock")):
        opened(tmp_path)
        assert half.exists()
    opened(tmp_path)
    assert not half.exists()


@pytest.mark.parametrize("change", ["rename", "delete"])
def test_what_cannot_be_written_down_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    shelf = opened(tmp_path)
    shelf.put(Kept("one", some()))

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(shelf_module, "write_whole", full)
        broken.setattr(Path, "unlink", full)
        with pytest.raises(NotWritten, match="No space left"):
            shelf.rename("one", "two") if change == "rename" else shelf.delete("one")
        assert [*shelf.items] == ["one"]
        assert not shelf.can_restore
    assert [*opened(tmp_path).items] == ["one"]


def test_an_item_that_is_in_no_file_is_on_the_shelf_until_the_session_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = opened(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Result, "save", lambda self, path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(NotWritten, match="one could not be written down"):
            shelf.put(Kept("one", some()))
    assert [*shelf.items] == ["one"]
    shelf.rename("one", "two")
    shelf.delete("two")
    assert shelf.restore() is not None
    assert [*opened(tmp_path).items] == ["two"]  # brought back, it could be written


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_of_every_script_come_back_each_with_its_own_item(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    names = [shelf.put(Kept(name, some(float(i)))).name for i, name in enumerate(NAMES)]
    assert len({*names}) == len(NAMES)
    again = opened(tmp_path)
    assert {name: again.find(name).item.values.tolist() for name in names} == {
        name: [float(i)] for i, name in enumerate(names)
    }
    assert [*again.items] == names  # in the order they were made
    assert {file.parent for file in place_of(tmp_path).iterdir()} == {place_of(tmp_path)}
    for name in names:
        again.rename(name, f"{name[:100]} renamed {names.index(name)}")
        again.delete(f"{name[:100]} renamed {names.index(name)}")
    assert opened(tmp_path).items == {}


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "\x00", "\u202eabc", "\ud800", "\u200b", "x" * 121, "a\tb", "\u2028"]
)
def test_names_that_mislead_are_refused(name: str) -> None:
    shelf = opened(None)
    with pytest.raises(BadText):
        shelf.put(Kept(name, some()))
    shelf.put(Kept("good", some()))
    with pytest.raises(BadText):
        shelf.rename("good", name)
    assert [*shelf.items] == ["good"]


def test_two_of_one_name_stand_beside_each_other_and_a_taken_name_is_refused(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    assert [shelf.put(Kept("x", some(float(i)))).name for i in range(3)] == ["x", "x (2)", "x (3)"]
    with pytest.raises(NameTaken):
        shelf.rename("x", "x (2)")
    shelf.rename("x", "x")
    with pytest.raises(NotFound):
        shelf.find("y")
    assert {n: k.item.values.item() for n, k in opened(tmp_path).items.items()} == {
        "x": 0.0,
        "x (2)": 1.0,
        "x (3)": 2.0,
    }


def test_two_processes_that_give_one_name_keep_both_items(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.put(Kept("x", some(1.0)))
    two.put(Kept("x", some(2.0)))
    assert {name: kept.item.values.item() for name, kept in opened(tmp_path).items.items()} == {"x": 1.0, "x (2)": 2.0}


# ── room, undo, models ──────────────────────────────────────────────────────────────────────────────────────


def test_over_the_budget_it_is_refused_with_the_bytes_and_a_deleted_item_can_still_be_brought_back() -> None:
    shelf = opened(None, budget=100)
    shelf.put(Kept("a", Result(torch.ones(20), ("pos",))))
    with pytest.raises(ShelfFull, match="delete some items"):
        shelf.put(Kept("b", Result(torch.ones(20), ("pos",))))
    shelf.delete("a")
    shelf.put(Kept("b", Result(torch.ones(20), ("pos",))))
    with pytest.raises(ShelfFull):
        shelf.restore()
    assert shelf.can_restore  # it is not lost for that
    shelf.delete("b")
    back = shelf.restore()
    assert back is not None
    assert back.name == "b"


def test_what_was_deleted_comes_back_with_all_that_is_known_of_it_also_on_the_disk(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.put(Kept("a", some(3.0), "Title", "method", {"n": 1}, "code"))
    shelf.delete("a")
    assert opened(tmp_path).items == {}
    assert shelf.restore() is not None
    assert shelf.restore() is None
    (kept,) = opened(tmp_path).items.values()
    assert (kept.name, kept.title, kept.method, kept.args, kept.code) == ("a", "Title", "method", {"n": 1}, "code")
    assert kept.item == some(3.0)


def test_each_model_has_a_shelf_of_its_own(tmp_path: Path) -> None:
    opened(tmp_path).put(Kept("mine", some(1.0)))
    other = opened(tmp_path, "gpt2")
    assert other.items == {}
    other.put(Kept("mine", some(2.0)))
    with pytest.raises(WrongModel):
        other.put(Kept("late", some()), of=worlds.model("llama"))
    assert [kept.item.values.item() for kept in opened(tmp_path).items.values()] == [1.0]
    assert [kept.item.values.item() for kept in opened(tmp_path, "gpt2").items.values()] == [2.0]


def test_a_full_shelf_comes_back_whole_and_takes_no_more(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    for i in range(MOST_ITEMS):
        shelf.put(Kept(f"item {i}", some(float(i))))
    again = opened(tmp_path)
    assert [(name, kept.item.values.item()) for name, kept in again.items.items()] == [
        (f"item {i}", float(i)) for i in range(MOST_ITEMS)
    ]
    assert again.bytes == shelf.bytes
    with pytest.raises(ShelfFull, match=f"{MOST_ITEMS} items"):
        again.put(Kept("one too many", some()))


def test_many_threads_leave_the_disk_as_the_memory_is(tmp_path: Path) -> None:
    shelf = opened(tmp_path)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for i in range(25):
            name = shelf.put(Kept(f"{seed}", some(float(i)))).name
            what, names = draw.random(), [*shelf.items]
            try:
                if what < 0.4:
                    shelf.rename(draw.choice(names), f"r {seed} {i}")
                elif what < 0.7:
                    shelf.delete(draw.choice(names))
                elif what < 0.8:
                    shelf.restore()
                else:
                    shelf.find(name)
            except (NotFound, NameTaken):
                pass

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    again = opened(tmp_path)
    assert {n: k.item.values.tolist() for n, k in again.items.items()} == {
        n: k.item.values.tolist() for n, k in shelf.items.items()
    }
    assert len([*place_of(tmp_path).glob("*.safetensors")]) == len(again.items)


def test_a_reader_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, writing, leave = opened(tmp_path), threading.Event(), threading.Event()
    save = Result.save

    def slowly(self: Result, path: Any) -> None:
        writing.set()
        assert leave.wait(30)
        save(self, path)

    monkeypatch.setattr(Result, "save", slowly)
    thread = threading.Thread(target=lambda: shelf.put(Kept("slow", some())))
    thread.start()
    assert writing.wait(30)
    assert [*shelf.items] == ["slow"]
    assert shelf.bytes > 0
    leave.set()
    thread.join(30)
    assert [*opened(tmp_path).items] == ["slow"]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["result", "direction", "dictionary", "prompts", "recording", "generation", "report"])
def test_an_item_is_exported_to_every_ending_and_imported_as_it_was(kind: str, tmp_path: Path) -> None:
    item = things()[kind]
    with worlds.session(folder=tmp_path) as session:
        session._items.put(Kept("thing/1", item))
        for ending in ENDINGS:
            name, data = session.reads.item_file("thing/1", ending)
            assert name == f"thing-1{ending}"
            _check(ending, data, item)
        with pytest.raises(WrongEnding):
            session.reads.item_file("thing/1", ".exe")
        _, data = session.reads.item_file("thing/1", ".safetensors")
        again = session.import_item(data, "back")["name"]
        same = session._items.find(again).item
        if kind == "recording":
            assert torch.equal(same["resid_pre.2"], item["resid_pre.2"])
        elif kind == "generation":
            assert (same.text, same.ids) == (item.text, item.ids)
        else:
            assert differing(item, same) == []
        with pytest.raises(DamagedFile):
            session.import_item(data[:-1], "cut")
    assert [*opened(tmp_path).items] == ["thing/1", "back"]


def _check(ending: str, data: bytes, item: Any) -> None:
    if ending in (".csv", ".json"):
        if not hasattr(item, "to_dataframe"):
            assert item.kind in data.decode()
            return
        frame = item.to_dataframe()
        if ending == ".csv":
            columns, *rows = csv.reader(io.StringIO(data.decode()))
        else:
            told = json.loads(data)
            columns, rows = told["columns"], told["rows"]
        assert columns == [str(column) for column in frame.columns]
        assert len(rows) == len(frame)
        for mine, row in zip(rows, frame.itertuples(index=False, name=None), strict=True):
            for a, b in zip(mine, row, strict=True):
                if isinstance(b, float):
                    assert (a in (None, "nan") and b != b) or float(a) == b  # every digit
    heads = {".html": b"<", ".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert data.startswith(heads.get(ending, b""))
    assert data


def test_a_file_of_several_dictionaries_is_imported_each_by_its_id(tmp_path: Path) -> None:
    model = worlds.model()
    rs.directions.save(tmp_path / "several.safetensors", worlds.components(model), model)
    with worlds.session() as session:
        names = session.import_item((tmp_path / "several.safetensors").read_bytes(), "mine")["names"]
        assert names == [f"mine, {id}" for id in worlds.components(model)]
        assert [item["name"] for item in session.snapshot()[1]["items"]["items"]] == names


def test_a_generation_is_whole_when_it_is_put_there_whatever_the_model_becomes_later():
    model = worlds.model()
    prompt = [[3, 4, 5]]
    whole = model.generate(prompt, max_new_tokens=6).ids
    asked, begun = [], model.generate(prompt, max_new_tokens=6)

    def one_by_one():
        for token in begun:
            asked.append(token.id)
            yield token

    shelf = ItemShelf(None)
    kept = shelf.put(Kept("said", Generation(one_by_one(), 1)))
    assert tuple(asked) == whole  # all of it, before anything may change
    asked.clear()
    assert kept.item.ids == whole
    assert not asked


@pytest.mark.parametrize("kind", ["result", "direction", "dictionary", "prompts", "recording", "generation", "report"])
def test_an_item_says_in_json_what_it_is(kind: str) -> None:
    item = things()[kind]
    told = json.loads(text_of(item, ".json"))
    assert told["kind"] == item.kind
    assert told["rows"]
    assert all(len(row) == len(told["columns"]) for row in told["rows"])


def test_a_report_of_several_tables_says_what_its_parts_are_instead_of_failing() -> None:
    report = flips(torch.tensor([2.0, float("nan")]), torch.tensor([-2.0, 1.0]))
    table = table_of(report)
    assert table is not None
    assert table["columns"] == ["part", "value"]
    assert json.loads(text_of(report, ".json"))["rows"] == table["rows"]
    assert table_of([report, some(1.0)])["columns"] != table["columns"]  # what has a table goes first
    assert text_of(report, ".csv").startswith("part,value")
