"""Saved prompts survive a kill at any moment; a damaged file is moved aside and named."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from residscope.shelf import whole
from residscope.shelf.whole import SavedPrompts
from session import worlds

WRITER = """
import sys
from pathlib import Path
from residscope.shelf.whole import SavedPrompts
file = SavedPrompts(Path(sys.argv[1]))
n = 0
while True:
    file.save(tuple(f"prompt {i}" * 200 for i in range(n % 50 + 1)))
    n += 1
    if n == 3:
        print("going", flush=True)
"""


def test_there_and_back(tmp_path: Path) -> None:
    prompts = ("a", " b\n", "ünïcode 🙂")
    SavedPrompts(tmp_path / "new").save(prompts)
    assert SavedPrompts(tmp_path / "new").load() == (prompts, None)
    assert SavedPrompts(tmp_path).load() == ((), None)


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    for turn in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 * turn)
        writer.kill()
        writer.wait()
        prompts, notice = SavedPrompts(tmp_path).load()
        assert notice is None
        assert prompts
        assert list(prompts) == [f"prompt {i}" * 200 for i in range(len(prompts))]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 1}', b"[1]", b'{"version": 1, "prompts": [1]}', b"\xff\xfe"]
)
def test_a_damaged_file_is_moved_aside_and_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.json").write_bytes(content)
    with worlds.session(folder=tmp_path) as session:
        (notice,) = session.snapshot()[1]["notices"]
        (aside,) = tmp_path.glob("prompts.json.damaged-*")
        assert str(aside) in notice
        assert aside.read_bytes() == content
        session.intent("save_prompt", {"text": "new"})
    assert SavedPrompts(tmp_path).load() == (("new",), None)


@pytest.mark.parametrize("found", ["opening a page", "saving"])
def test_a_file_damaged_while_a_session_is_open_is_written_anew_and_said(tmp_path: Path, found: str) -> None:
    with worlds.session(folder=tmp_path) as session:
        session.intent("save_prompt", {"text": "kept"})
        session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.0", "head": 0}]})
        session.intent("save_stack", {"name": "first"})
        for name in ("prompts", "stacks"):
            (tmp_path / f"{name}.json").write_bytes(b"{")
        if found == "saving":
            session.intent("save_prompt", {"text": "more"})
        shown = session.subscribe(lambda seq, patch: None)[1]
        kept = ["kept", *(["more"] if found == "saving" else [])]
        assert texts(session) == [entry["text"] for entry in shown["saved"]] == kept
        assert [stack["name"] for stack in shown["stacks"]] == ["first"]
        for name in ("prompts", "stacks"):
            (aside,) = tmp_path.glob(f"{name}.json.damaged-*")
            assert aside.read_bytes() == b"{"
            assert any(str(aside) in notice and "written down anew" in notice for notice in shown["notices"])
    with worlds.session(folder=tmp_path) as again:
        assert (texts(again), [*again.state.notices]) == (kept, [])
        assert [stack.name for stack in again.state.stacks] == ["first"]


def test_a_damaged_file_that_nothing_can_mend_empties_no_list_that_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SavedPrompts(tmp_path)
    file.save(("kept",))
    (tmp_path / "prompts.json").write_bytes(b"{")
    monkeypatch.setattr(whole, "write_whole", full)
    found, notice = file.load()
    assert (found, "could not be saved" in str(notice)) == (("kept",), True)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_saved_prompts_get_their_next_token(tmp_path: Path) -> None:
    SavedPrompts(tmp_path).save(("kept from before", "x" * 1000))
    with worlds.session(folder=tmp_path) as session:
        session.intent("save_prompt", {"text": "one more"})
        session.intent("save_prompt", {"text": "kept from before"})
        assert session.wait(60)
        saved = {entry["text"]: entry for entry in session.snapshot()[1]["saved"]}
        ((text, _, p),) = worlds.model().run("one more", ["logits"]).top(1)
        assert (saved["one more"]["top"], saved["one more"]["tokens"]) == (text, 8)
        assert saved["one more"]["p"] == pytest.approx(p, abs=1e-5)
        assert saved["x" * 1000]["top"] is None
        session.intent("forget_prompt", {"text": "x" * 1000})
    content = json.loads((tmp_path / "prompts.json").read_text())
    assert content["prompts"] == ["one more", "kept from before"]


def test_a_list_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with worlds.session(folder=tmp_path / "file") as session:
        before = session.snapshot()
        with pytest.raises(Exception, match="could not be saved"):
            session.intent("save_prompt", {"text": "lost"})
        assert session.snapshot() == before


def texts(session: Any) -> list[str]:
    return [entry["text"] for entry in session.snapshot()[1]["saved"]]


def test_two_servers_on_one_folder_keep_what_each_was_told(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as a, worlds.session(folder=tmp_path) as b:
        a.intent("save_prompt", {"text": "A1"})
        b.intent("save_prompt", {"text": "B1"})
        a.intent("save_prompt", {"text": "A2"})
        assert texts(a) == ["A1", "B1", "A2"]
        b.subscribe(lambda seq, patch: None)[2]()  # a page that is opened sees what others have kept
        assert texts(b) == ["A1", "B1", "A2"]
        b.intent("forget_prompt", {"text": "A1"})
        a.intent("save_prompt", {"text": "A3"})
        assert texts(a) == ["B1", "A2", "A3"]
        for session, edit in ((a, "z.0"), (b, "z.1")):
            session.intent("set_edits", {"edits": [{"kind": "ablate", "site": edit, "head": 0}]})
            session.intent("save_stack", {"name": "same"})
        assert [stack["name"] for stack in b.snapshot()[1]["stacks"]] == ["same", "same (2)"]
    with worlds.session(folder=tmp_path) as again:
        assert texts(again) == ["B1", "A2", "A3"]
        sites = {again.query("stack", {"name": name})["edits"][0]["site"] for name in ("same", "same (2)")}
        assert sites == {"z.0", "z.1"}


def test_what_two_write_at_once_is_all_there(tmp_path: Path) -> None:
    folders = [SavedPrompts(tmp_path) for _ in range(4)]

    def write(number: int) -> None:
        mine: tuple[str, ...] = ()
        for i in range(15):
            mine, _ = folders[number].save((*mine, f"{number}.{i}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(SavedPrompts(tmp_path).load()[0]) == {f"{n}.{i}" for n in range(4) for i in range(15)}
