"""Drafts: whole or not there, as the umask has it, and swept up once their process is gone, but not before."""

import os
import signal
import threading
from pathlib import Path

import pytest

from residscope.drafts import drafts, replace_whole, sweep
from residscope.errors import FileNotThere


def killed_in_a_draft(folder: Path) -> None:
    if not (pid := os.fork()):
        with drafts(folder) as made:
            (made / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    replace_whole(tmp_path / "it", lambda draft: draft.write_text("old"))

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        replace_whole(tmp_path / "it", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("it", "old")]
    with pytest.raises(FileNotThere):
        replace_whole(tmp_path / "nowhere" / "it", lambda draft: draft.write_text("new"))


@pytest.mark.parametrize(("private", "mode"), [(False, 0o640), (True, 0o600)])
def test_a_file_is_as_open_as_the_umask_has_it_or_its_owners_alone(tmp_path: Path, private: bool, mode: int) -> None:
    before = os.umask(0o027)
    try:
        replace_whole(tmp_path / "it", lambda draft: draft.write_text("x"), private=private, durable=False)
    finally:
        os.umask(before)
    assert (tmp_path / "it").stat().st_mode & 0o777 == mode


def test_what_a_killed_process_left_goes_and_what_a_living_one_makes_stays(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for folder in (tmp_path, tmp_path / "deep"):
        killed_in_a_draft(folder)
    assert len([*tmp_path.rglob("half")]) == 2
    with drafts(tmp_path / "deep") as living:
        sweep(tmp_path)
        assert [path.parent.parent for path in tmp_path.rglob("half")] == [tmp_path / "deep"]
        sweep(tmp_path, below=True)
        assert [*(tmp_path / "deep").iterdir()] == [living]
    assert [*tmp_path.rglob("*")] == [tmp_path / "deep"]


def test_the_next_writer_in_a_folder_sweeps_it_up_and_leaves_other_hidden_folders(tmp_path: Path) -> None:
    (tmp_path / ".residscope-notes").mkdir()
    killed_in_a_draft(tmp_path)
    replace_whole(tmp_path / "it", lambda draft: draft.write_text("new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".residscope-notes", "it"]


def test_writers_and_sweepers_at_once_are_not_in_each_others_way(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(100):
                replace_whole(tmp_path / f"{number}", lambda draft: draft.write_text("x"), durable=False)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
