"""A disk that is full: writing fails as the disk's errors do, leaves nothing half-made, and loses nothing that was made."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import residscope as rs
from residscope.cli import made
from residscope.errors import NotWritten
from residscope.files import write_tensors

RESULT = rs.Result(torch.zeros(100, 100), ("layer", "pos"))


@contextmanager
def full() -> Iterator[None]:
    """No file grows beyond 1,000 bytes: what the writer then meets is the system's own refusal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_disk_refuses_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    with full(), pytest.raises(OSError, match="File too large") as caught:
        write_tensors(tmp_path / "it.safetensors", "result", {"a": torch.zeros(1000)}, {})
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_what_a_command_made_is_kept_elsewhere_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    save = made.save

    def refused(item: object, path: Path, model: object) -> None:
        if path.parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(item, path, model)

    monkeypatch.setattr(made, "save", refused)
    with pytest.raises(NotWritten, match="No space left on device") as caught:
        made.save_or_keep(RESULT, tmp_path / "fit.safetensors", None)
    (kept,) = home.iterdir()
    assert str(kept) in str(caught.value)
    assert torch.equal(rs.Result.load(kept).values, RESULT.values)


def test_where_there_is_no_room_anywhere_it_is_said(tmp_path: Path) -> None:
    with full(), pytest.raises(NotWritten, match="nor could any other place"):
        made.save_or_keep(RESULT, tmp_path / "fit.safetensors", None)
