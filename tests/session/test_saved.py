"""Saved prompts survive a kill at any moment; a damaged file is moved aside and named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
