"""Each thing that can be wrong with an installation, made wrong for real."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import residscope
from residscope import doctor


def state(check: doctor.Check) -> tuple[str, bool]:
    return check.state, bool(check.mend)


def test_versions():
    assert state(doctor.version("torch", (2, 9))) == ("ok", False)
    assert state(doctor.version("torch", (99, 0))) == ("fail", True)
    assert doctor.version("no-such-package-here", (1, 0)).mend == "pip install 'no-such-package-here>=1.0'"


def test_memory_says_what_a_session_may_hold(monkeypatch):
    found = doctor.memory()
    assert "GB free" in found.found
    assert "2.1 GB of items" in found.found
    monkeypatch.setattr("residscope.engine.memory.budget", lambda device: 1000)
    assert state(doctor.memory()) == ("warn", True)


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert state(doctor.free_port(port)) == ("warn", True)
    assert state(doctor.free_port(port)) == ("ok", False)


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path))
    cache, data = doctor.folders()
    assert state(cache) == ("fail", True)
    assert "RESIDSCOPE_CACHE" in cache.mend
    assert state(data) == ("ok", False)


def test_what_others_of_the_machine_can_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path / "data"))
    assert state(doctor.private()) == ("ok", False)
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "prompts.json").touch(mode=0o644)
    found = doctor.private()
    assert state(found) == ("warn", True)
    assert "prompts.json" in found.found
    (tmp_path / "data" / "prompts.json").chmod(0o600)
    assert state(doctor.private()) == ("ok", False)
    (tmp_path / "data" / "prompts.json").chmod(0o640)
    (tmp_path / "data").chmod(0o700)
    assert state(doctor.private()) == ("ok", False)


def test_no_browser(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(doctor.browser()) == ("warn", True)
    (tmp_path / "firefox").touch(mode=0o755)
    assert state(doctor.browser()) == ("ok", False)


def test_model_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    check = doctor.loadable("smollm2-135m")
    assert (check.state, check.mend) == ("warn", "residscope models pull smollm2-135m")


def test_damaged_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    check = doctor.loadable(str(tmp_path))
    assert check.state == "fail"
    assert "DamagedModel: model.safetensors" in check.found


@pytest.mark.parametrize("broken", [False, True])
def test_report(tmp_path, broken):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    model = [str(tmp_path)] if broken else ["smollm2-135m"]
    env = os.environ | {"PYTHONPATH": str(Path(residscope.__file__).parents[1])}
    command = [sys.executable, "-m", "residscope", "doctor", "--json", "--model", *model]
    answer = subprocess.run(command, capture_output=True, text=True, env=env)
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    failed = {name for name, check in checks.items() if check["state"] == "fail"}
    assert {"python", "torch", "page", "cache", "data", "disk", "port", "browser", "model"} <= checks.keys()
    assert ("model" in failed) == broken
    assert answer.returncode == (1 if failed else 0)
    assert all(check["mend"] for check in checks.values() if check["state"] != "ok")
