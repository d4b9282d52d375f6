"""`serve` as the command line uses it: the page answers while the model loads, and Ctrl-C ends it cleanly."""

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from residscope.corpus.text import texts
from residscope.server.listen import read_ahead
from server.entering import enter
from session import worlds

CODE = "from residscope.server import serve; serve(sys.argv[1], port=int(sys.argv[2]), open_browser=False)"


def start(tmp_path: Path, port: int = 0) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RESIDSCOPE_DATA": str(tmp_path)}
    command = [sys.executable, "-c", f"import sys; {CODE}", str(tmp_path / "no-such-model"), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_it_listens_says_where_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        printed = ""
        while not (link := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", printed)):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            printed += line
        with httpx.Client() as browser:
            base = link[0].split("?")[0]
            assert enter(browser, link[0]).status_code == 303
            deadline = time.monotonic() + 60
            while (status := browser.get(f"{base}api/state").json()["state"]["status"])["phase"] == "loading":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert (status["phase"], status["error"]["type"]) == ("failed", "ModelNotFound")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()


def test_a_taken_port_stops_it_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = start(tmp_path, port=other.getsockname()[1])
        out, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "PortInUse" in errors
    assert "token" not in out


def test_what_was_read_ahead_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with worlds.session() as session:
        read_ahead(session)
        monkeypatch.setattr(ast, "parse", lambda *_: pytest.fail("it was read before"))
        assert len(list(texts("python-docs"))) > 1000
