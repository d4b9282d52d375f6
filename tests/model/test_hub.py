"""Fetching from a hub: a real server on the loopback that answers as huggingface.co does, with its faults."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

import residscope as rs
from residscope.errors import DamagedModel, HashMismatch, ModelNotFound, Offline, WrongModel
from residscope.model import weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by name, each a dict of path to bytes; large files are LFS, redirected to a CDN path.

    `short` bytes are missing at the end of LFS files; `spoilt` changes them in transit; `down` answers 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"  # another host, as the real one is
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, tuple[str, dict[str, bytes]]] = {}  # "owner/name@branch": its commit and files
        self.gated: set[str] = set()
        self.short, self.spoilt, self.down = 0, False, False
        self.asked: list[str] = []

    def at(self, name: str, revision: str) -> tuple[str | None, dict[str, bytes] | None]:
        """The commit that a branch or a commit stands for, and its files."""
        for told, (commit, files) in self.branches.items():
            if told == f"{name}@{revision}" or (told.startswith(f"{name}@") and revision == commit):
                return commit, files
        return COMMIT if revision in ("main", COMMIT) else None, self.repositories.get(name)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3] if parts[0] == "cdn" else parts[:2])
        asked = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if len(parts) > 3 else "main"
        commit, files = hub.at(name, asked)
        if hub.down:
            self.answer(503, b"")
        elif files is None:
            self.answer(401, b"{}", **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif name in hub.gated and parts[0] != "cdn":
            self.answer(403, b"{}", **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif parts[0] == "cdn":
            body = files[parts[4]]
            self.answer(200, (body[:-1] + b"!" if hub.spoilt else body)[: len(body) - hub.short])
        elif parts[0] == "api":
            if commit is None:
                self.answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            elif parts[4:5] == ["tree"]:
                self.answer(200, json.dumps([self.entry(path, body) for path, body in files.items()]).encode())
            else:
                info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
                self.answer(200, json.dumps(info).encode())
        elif parts[2] == "resolve" and (file := "/".join(parts[4:])) in files:
            self.resolve(name, file, files[file], commit or COMMIT)
        else:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def resolve(self, name: str, file: str, body: bytes, commit: str) -> None:
        headers = {"X-Repo-Commit": commit}
        if large(file):
            digest = hashlib.sha256(body).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            self.answer(302, b"", **headers, Location=f"{self.server.cdn}/cdn/{name}/{commit}/{file}")
        else:
            self.answer(200, body, **headers, ETag=f'"{git_oid(body)}"')

    def entry(self, path: str, body: bytes) -> dict[str, object]:
        told = {"type": "file", "path": path, "size": len(body), "oid": git_oid(body)}
        lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return told | ({"lfs": lfs} if large(path) else {})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 8}
    LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(tiny_files, tmp_path, monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.repositories = {
        "someone/tiny": tiny_files | {"README.md": b"# tiny", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"-"},
        "someone/pickled": {"config.json": tiny_files["config.json"], "pytorch_model.bin": b"pickle"},
    }
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield server
    server.shutdown()
    server.server_close()


def blobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hub").rglob("*") if path.is_file() and "blobs" in path.parts]


def test_repository_is_fetched_and_opened(hub):
    told = []
    source = weights.resolve("someone/tiny", progress=lambda *step: told.append(step))
    hf, tokenizer = weights.open_source(source)
    assert hf(torch.tensor([[0, 1]])).logits.shape == (1, 2, 8)
    assert tokenizer("a b").input_ids == [0, 1]
    names = {file.name for file in source.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"README.md", "pytorch_model.bin", "onnx"}
    total = sum(len(hub.repositories["someone/tiny"][name]) for name in names)
    assert told[-1] == ("download", total, total)


def test_second_load_fetches_nothing(hub):
    first = weights.resolve("someone/tiny")
    hub.asked.clear()
    assert weights.resolve("someone/tiny") == first
    assert not any("resolve" in request or "cdn" in request for request in hub.asked)


def test_cached_model_needs_no_hub(hub):
    first = weights.resolve("someone/tiny")
    assert weights.cached("someone/tiny")
    hub.shutdown()
    hub.server_close()
    assert weights.resolve("someone/tiny") == first


def test_no_hub_and_no_cache(hub):
    hub.shutdown()
    hub.server_close()
    assert not weights.cached("someone/tiny")
    with pytest.raises(Offline, match=r"not in the cache and the hub does not answer.*check the network"):
        weights.resolve("someone/tiny")


def test_unknown_repository(hub):
    with pytest.raises(ModelNotFound, match=r"no such repository.*someone/else"):
        weights.resolve("someone/else")


def test_unknown_revision(hub):
    assert weights.resolve("someone/tiny", revision=COMMIT).path.name == COMMIT
    with pytest.raises(ModelNotFound, match=r"no such revision.*v9"):
        weights.resolve("someone/tiny", revision="v9")


def test_two_revisions_are_two_models(hub, tiny_files, tmp_path):
    from transformers import LlamaForCausalLM

    hf = LlamaForCausalLM.from_pretrained(weights.resolve("someone/tiny").path)
    with torch.no_grad():
        hf.lm_head.weight.mul_(2)
    hf.save_pretrained(tmp_path / "later")
    later = {"model.safetensors": (tmp_path / "later" / "model.safetensors").read_bytes()}
    hub.branches["someone/tiny@step1000"] = ("a" * 40, tiny_files | later)

    main, step = rs.load("someone/tiny"), rs.load("someone/tiny", revision="step1000")
    assert (main.name, step.name) == ("someone/tiny", "someone/tiny@step1000")
    assert main.hash != step.hash
    torch.testing.assert_close(step.run([1, 2]).logits, 2 * main.run([1, 2]).logits)
    rs.save_recording(step.run([1, 2]), tmp_path / "run")
    with pytest.raises(WrongModel, match=r"someone/tiny@step1000.*someone/tiny"):
        rs.load_recording(tmp_path / "run", main)

    assert weights.cached("someone/tiny@step1000")
    assert not weights.cached("someone/tiny@step2000")
    with pytest.raises(ModelNotFound, match="all its revisions"):
        weights.remove("someone/tiny@step1000")
    hub.asked.clear()  # each has its own entry in the cache, and its name loads it again
    assert weights.resolve("someone/tiny@step1000") == weights.resolve("someone/tiny", revision="step1000")
    assert rs.load("someone/tiny@step1000").hash == step.hash
    assert rs.load("someone/tiny").hash == main.hash
    assert not any("resolve" in request or "cdn" in request for request in hub.asked)


def test_revisions_are_the_hubs(tmp_path, tiny_files):
    for name, data in tiny_files.items():
        (tmp_path / name).write_bytes(data)
    for name in (str(tmp_path), "smollm2-135m"):
        with pytest.raises(ModelNotFound, match=r"has no revisions.*step1000"):
            weights.resolve(name, revision="step1000")
    with pytest.raises(ModelNotFound, match="two revisions"):
        weights.resolve("someone/tiny@step1", revision="step1000")


def test_gated_repository(hub):
    hub.gated.add("someone/tiny")
    with pytest.raises(ModelNotFound, match=r"gated.*accept its terms at .*someone/tiny"):
        weights.resolve("someone/tiny")


def test_truncated_file_leaves_nothing_half_written(hub, tmp_path):
    hub.short = 100
    with pytest.raises(DamagedModel, match=r"arrived truncated.*try again"):
        weights.resolve("someone/tiny")
    assert not any("incomplete" in name for name in blobs(tmp_path))
    assert not weights.cached("someone/tiny")
    hub.short = 0
    weights.open_source(weights.resolve("someone/tiny"))


def test_spoilt_file_is_thrown_away(hub, tmp_path):
    hub.spoilt = True
    with pytest.raises(HashMismatch, match=r"model\.safetensors of someone/tiny is not what the hub announced"):
        weights.resolve("someone/tiny")
    assert not any(len(name) == 64 for name in blobs(tmp_path))
    hub.spoilt = False
    weights.open_source(weights.resolve("someone/tiny"))


def test_pickles_are_not_even_fetched(hub):
    with pytest.raises(DamagedModel, match="no safetensors weights"):
        weights.resolve("someone/pickled")
    assert not any("pytorch_model.bin" in request for request in hub.asked)


def test_removing(hub):
    weights.resolve("someone/tiny")
    assert weights.size("someone/tiny") > len(hub.repositories["someone/tiny"]["model.safetensors"])
    assert weights.remove("someone/tiny") > 0
    assert not weights.cached("someone/tiny")


def test_endpoint_of_the_environment(hub, tmp_path):
    code = "from residscope.model import weights; print(weights.resolve('someone/tiny').fingerprint)"
    places = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other"), "HF_HUB_DISABLE_XET": "1"}
    path = {"PYTHONPATH": str(Path(weights.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=os.environ | places | path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == weights.resolve("someone/tiny").fingerprint


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_fetch_draws_a_bar_in_a_terminal_alone(hub, monkeypatch, terminal):
    screen = Screen(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    rs.load("someone/tiny")
    assert ("someone/tiny: download: 100%" in screen.getvalue()) is terminal


def test_a_caller_who_shows_progress_gets_no_bar(hub, monkeypatch):
    screen, told = Screen(terminal=True), []
    monkeypatch.setattr(sys, "stderr", screen)
    rs.load("someone/tiny", progress=lambda *step: told.append(step))
    assert "download" not in screen.getvalue()
    assert any(stage == "download" for stage, _, _ in told)
