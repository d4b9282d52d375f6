"""A server in a process of its own, on a data folder of its own, as a person starts one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from server.entering import enter

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
READY = 120.0  # seconds
QUIET = 0.2  # of a CPU


@dataclass(frozen=True)
class Serving:
    """base: its address; cookie, secret: what a browser has that came by its link."""

    pid: int
    base: str
    cookie: str
    secret: str

    @property
    def memory(self) -> int:
        """Bytes that it holds in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def busy(self, seconds: float) -> float:
        """How many CPUs it keeps busy in the next seconds."""
        before = self._ticks()
        time.sleep(seconds)
        return (self._ticks() - before) / TICK / seconds

    def _ticks(self) -> int:
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return int(user) + int(system)


@contextmanager
def serving(model: str, folder: Path) -> Iterator[Serving]:
    """`residscope open` of a model, once it is loaded."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RESIDSCOPE_DATA": str(folder)}
    command = [sys.executable, "-m", "residscope", "open", model, "--port", "0", "--no-browser"]
    with (folder / "server.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            link = _link(process, folder / "server.log")
            with httpx.Client(timeout=60) as browser:
                enter(browser, link)
                base, cookies = link.partition("?")[0], "; ".join(f"{k}={v}" for k, v in browser.cookies.items())
                _wait(lambda: browser.get(f"{base}api/state").json()["state"]["status"]["phase"] == "idle")
                running = Serving(process.pid, base, cookies, browser.headers["x-residscope-page"])
                _wait(lambda: running.busy(1.0) < QUIET)  # it has read ahead what people ask for later
                yield running
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            finally:
                process.kill()


def _link(process: subprocess.Popen[bytes], log: Path) -> str:
    found: list[str] = []

    def printed() -> bool:
        assert process.poll() is None, log.read_text()
        found[:] = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\S+", log.read_text())
        return bool(found)

    _wait(printed)
    return found[0]


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY
    while not ready():
        assert time.monotonic() < deadline, "the server does not become ready"
        time.sleep(0.1)
