"""A server that is told to end does so at once and cleanly, whatever runs: an exit code of 0, and nothing on the terminal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

CODE = """
import sys
from pathlib import Path
from residscope.server import listen
from session import worlds
import torch

LARGE, AT_WORK = torch.randn(500, 500), Path(sys.argv[2])

def load(name, **_):
    model = worlds.model()
    def work(*_):
        LARGE @ LARGE
        AT_WORK.touch()
    model.hf.model.layers[1].register_forward_hook(work)
    return model

def session(port):
    from residscope.session import Session
    return Session(load=load)

listen.new_session = session
listen.python_docs = lambda: ()
listen.serve("tiny", port=0, open_browser=False, store=sys.argv[1])
"""


class Running:
    """A server with a tiny model whose blocks take a while, once it has its first picture."""

    def __init__(self, tmp_path: Path) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RESIDSCOPE_DATA": str(tmp_path)}
        self.at_work = tmp_path / "at-work"
        command = [sys.executable, "-c", CODE, f"sqlite:///{tmp_path / 'library.db'}", str(self.at_work)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        printed = ""
        while not (link := re.search(r"(http://127\.0\.0\.1:\d+/)\?token=(\S+)", printed)):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            printed += line
        self.http = httpx.Client(base_url=link[1], headers={"authorization": f"Bearer {link[2]}"}, timeout=60)

    def await_phase(self, phase: str) -> None:
        while self.http.get("api/state").json()["state"]["status"]["phase"] != phase:
            time.sleep(0.1)

    def do(self, intent: str, **args: Any) -> Any:
        answer = self.http.post(f"api/intents/{intent}", json=args)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def await_work(self) -> None:
        """Until a block runs, from now on."""
        self.at_work.unlink(missing_ok=True)
        while not self.at_work.exists():
            assert self.process.poll() is None
            time.sleep(0.02)


def a_fit(running: Running) -> None:
    corpus = {"kind": "builtin", "name": "python-docs"}
    running.do("start", method="pca", args={"corpus": corpus, "site": "resid_post.2", "tokens": 1_000_000})
    running.await_work()


def a_page(running: Running) -> None:
    body = {"own": [f"{i} times of a prompt that is read" for i in range(50)]}

    def ask() -> None:
        with suppress(httpx.HTTPError):
            running.http.post("api/queries/prompts", json=body)

    threading.Thread(target=ask, daemon=True).start()
    running.await_work()


@pytest.mark.parametrize(
    ("at", "told"), [(a_fit, signal.SIGINT), (a_page, signal.SIGTERM)], ids=["a fit, Ctrl-C", "a page, told to end"]
)
def test_it_ends_cleanly_whatever_runs(tmp_path: Path, at: Callable[[Running], None], told: signal.Signals) -> None:
    running = Running(tmp_path)
    try:
        running.await_phase("idle")
        at(running)
        running.process.send_signal(told)
        _, said = running.process.communicate(timeout=20)
        assert running.process.returncode == 0, said
        assert {*said.split("\n")} <= {"", "Stopped."}
    finally:
        running.process.kill()
        running.http.close()
