"""What another user of the machine sees and reaches of a session that is open: `su nobody` beside a real `residscope open`."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.entering import enter
from server.nginx import free_port

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("su") is None,
    reason="only root may become another user: run the tests as root, as CI does",
)
PROMPT = "red green blue"
BROWSER = """#!/bin/sh
sleep 300
"""


@dataclass(frozen=True)
class Opened:
    """A workbench as its owner has it open, with a browser that was handed its page."""

    process: int
    browser: int
    base: str
    token: str
    data: Path

    def state(self) -> Any:
        return self.http().get("/api/state").json()

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.base, headers={"authorization": f"Bearer {self.token}"}, timeout=60)


def nobody(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["su", "nobody", "-s", "/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """In a folder that everybody may go into, so that what is made in it must be private by itself."""
    place = Path(tempfile.mkdtemp(prefix="residscope-others-"))
    place.chmod(0o755)
    browser = place / "browser"
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    env = {
        **os.environ,
        "RESIDSCOPE_DATA": str(place / "data"),
        "BROWSER": f"{browser} %s &",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "residscope", "open", "planted", "--port", str(free_port())]
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, umask=0o022)
    started: list[int] = []
    try:
        assert server.stdout is not None
        link = next(line.strip() for line in server.stdout if "?token=" in line)
        base, token = link.split("?token=")
        while not (started := [pid for pid in processes() if str(browser) in words_of(pid)]):
            time.sleep(0.05)
        one = Opened(server.pid, started[0], base, token, place / "data")
        with one.http() as http:
            while http.get("/api/state").json()["state"]["status"]["phase"] != "idle":
                time.sleep(0.1)
            for name, args in (
                ("set_prompt", {"text": PROMPT}),
                ("save_prompt", {"text": PROMPT}),
                ("set_edits", {"edits": [{"kind": "ablate", "site": "z.0", "head": 0}]}),
                ("save_stack", {"name": "mine"}),
                ("library_sign_in", {"name": "ada"}),
                ("start", {"method": "logit-lens", "args": {"prompt": {"kind": "live"}}}),
            ):
                assert http.post(f"/api/intents/{name}", json=args).status_code == 200, name
            while any(job["phase"] in ("waiting", "running") for job in http.get("/api/state").json()["state"]["jobs"]):
                time.sleep(0.05)
        yield one
    finally:
        server.terminate()
        for pid in started:
            os.kill(pid, 15)
        server.wait(20)
        shutil.rmtree(place)


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_the_data_folder_is_not_read_listed_or_written(opened: Opened) -> None:
    files = [path for path in opened.data.rglob("*") if path.is_file()]
    names = {str(path.relative_to(opened.data)) for path in files}
    assert {"prompts.json", "stacks.json", "library.db", f"open/{opened.base.split(':')[-1].strip('/')}.html"} <= names
    assert any(PROMPT.encode() in path.read_bytes() for path in files), "the control: what is looked for is there"
    listed = nobody(f"ls -R {opened.data}; find {opened.data} -type f; cat {opened.data}/* {' '.join(map(str, files))}")
    assert PROMPT not in listed.stdout
    assert listed.stdout.split() in ([], [str(opened.data)], [f"{opened.data}:"])
    tries = "; ".join(
        f"test -r {path} && echo read {path}; test -w {path} && echo write {path}" for path in [opened.data, *files]
    )
    assert nobody(tries).stdout == ""
    made = nobody(
        f"touch {opened.data}/new {opened.data.parent}/data/prompts.json; rm -f {files[0]}; mv {opened.data} {opened.data}2"
    )
    assert made.stdout == ""
    assert [path for path in opened.data.rglob("*") if path.is_file()] == files


def test_each_file_is_its_owner_s_alone_whatever_its_folder_is(opened: Opened) -> None:
    """As where the folder was made by an older version, for all to read."""
    secret = ("prompts.json", "stacks.json", "library.db", "open/", "sessions/", "key")
    loose = [
        name
        for path in opened.data.rglob("*")
        if path.is_file()
        and (name := str(path.relative_to(opened.data))).startswith(secret)
        and not name.endswith(".lock")
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert loose == []


def test_the_list_of_processes_holds_nothing_that_lets_in(opened: Opened) -> None:
    page = next((opened.data / "open").iterdir())
    once = re.findall(r"token=([\w-]{20,})", page.read_text())[0]
    with httpx.Client(base_url=opened.base) as http:
        told = enter(http, f"/?token={opened.token}")
        secrets = [
            opened.token,
            once,
            http.headers["x-residscope-page"],
            told.cookies[f"residscope-{http.base_url.port}"],
        ]
    seen = nobody(
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/[0-9]*/comm 2>/dev/null | tr '\\0' ' '; ps axwwe -o args"
    ).stdout
    assert str(page.as_uri()) in seen, "the control: the browser's arguments are seen"
    assert "residscope open planted" in seen
    assert [secret for secret in secrets if secret in seen] == []
    assert nobody(f"cat /proc/{opened.process}/environ").stdout == ""


def test_no_pipe_socket_or_open_file_leads_in(opened: Opened) -> None:
    fds = [Path(f"/proc/{opened.process}/fd/{name}") for name in os.listdir(f"/proc/{opened.process}/fd")]
    assert (
        nobody(
            f"ls /proc/{opened.process}/fd; cat /proc/{opened.process}/fd/1 < /dev/null; cat /proc/{opened.process}/mem"
        ).stdout
        == ""
    )
    targets = {os.readlink(fd) for fd in fds if fd.is_symlink()}
    mine = {target[8:-1] for target in targets if target.startswith("socket:[")}
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    assert [row for row in rows if row[6] in mine and len(row) > 7] == [], (
        "a socket with a name could be opened by others"
    )
    tcp = [
        row.split()
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    ]
    listening = {row[1].split(":")[0] for row in tcp if row[9] in mine and row[3] == "0A"}
    assert listening == {"0100007F"}, "127.0.0.1 alone"
    kept = [target for target in targets if target.startswith((str(opened.data), "/tmp", "/dev/shm", "/var/tmp"))]
    assert nobody("; ".join(f"test -r '{target}' && echo '{target}'" for target in kept) or "true").stdout == ""


def test_what_it_sends_is_refused_and_changes_nothing(opened: Opened) -> None:
    before = opened.state()
    send = f"curl -s -m 20 -w '%{{http_code}} ' {opened.base}"
    tries = [
        f"{send}{path}"
        for path in ("", "api/state", "api/items/file?name=mine\\&ending=.csv", "api/library/directions")
    ]
    body = """-H 'content-type: application/json' -d '{"text":"stolen","name":"stolen"}'"""
    names = ("set_prompt", "undo", "save_prompt", "load_model", "library_sign_in")
    tries += [f"{send}api/intents/{name} {body}" for name in names]
    upgrade = (
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {'A' * 22}==",
    )
    headers = " ".join(f"-H '{header}'" for header in upgrade)
    tries.append(f"{send}ws {headers}")
    answered = nobody("; ".join(tries)).stdout
    assert re.findall(r"\}?(\d{3}) ", answered) == ["401"] * len(tries), answered
    assert PROMPT not in answered
    assert opened.state() == before
