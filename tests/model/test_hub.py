"""Fetching from a hub: a real server on the loopback that answers as huggingface.co does, with its faults."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import residscope as rs
from loopback_hub import COMMIT
from residscope.errors import DamagedModel, HashMismatch, ModelNotFound, Offline, WrongModel
from residscope.model import opening, weights


def blobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hub").rglob("*") if path.is_file() and "blobs" in path.parts]


def test_repository_is_fetched_and_opened(hub):
    told = []
    source = weights.resolve("someone/tiny", progress=lambda *step: told.append(step))
    hf, tokenizer = opening.open_source(source)
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
    opening.open_source(weights.resolve("someone/tiny"))


def test_spoilt_file_is_thrown_away(hub, tmp_path):
    hub.spoilt = True
    with pytest.raises(HashMismatch, match=r"model\.safetensors of someone/tiny is not what the hub announced"):
        weights.resolve("someone/tiny")
    assert not any(len(name) == 64 for name in blobs(tmp_path))
    hub.spoilt = False
    opening.open_source(weights.resolve("someone/tiny"))


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
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of another test: a notebook has bars
    rs.load("someone/tiny")
    assert ("someone/tiny: download: 100%" in screen.getvalue()) is terminal


def test_a_caller_who_shows_progress_gets_no_bar(hub, monkeypatch):
    screen, told = Screen(terminal=True), []
    monkeypatch.setattr(sys, "stderr", screen)
    rs.load("someone/tiny", progress=lambda *step: told.append(step))
    assert "download" not in screen.getvalue()
    assert any(stage == "download" for stage, _, _ in told)
