"""Weights spread over two processes by transformers' own tensor-parallel plans, under torchrun on this CPU."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from residscope.model import tiny

IDS = [[5, 9, 2, 7, 11, 3]]
RANK = """
import json, sys
import torch, torch.distributed as dist
from pathlib import Path
from transformers import AutoModelForCausalLM

import residscope as rs
from residscope import edits
from residscope.errors import AbsentSite, NoWeights

IDS = [[5, 9, 2, 7, 11, 3]]
dist.init_process_group("gloo")
torch.set_num_threads(1)
told = {}


def refused(call, kind):
    try:
        call()
    except kind as error:
        return str(error)


for folder in sys.argv[2:]:
    hf = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", dtype=torch.float32).eval()
    with torch.no_grad():
        stock = hf(torch.tensor(IDS)).logits
    model = rs.load((hf, None))
    run = model.run(IDS, ["resid_post", "attn_out", "logits"])
    told[folder] = {
        "passed": model.certificate.passed,
        "checks": [check.name for check in model.certificate.checks if check.passed],
        "sizes": [model.n_layers, model.n_heads, model.n_kv_heads, model.d_mlp],
        "error": float((run.logits - stock).abs().max()),
        "stream": run["resid_post.1"].flatten().tolist(),
        "edited": model.run(IDS, edits=[edits.scale("attn_out.1", 3.0)]).logits.flatten().tolist(),
        "hash": model.hash,
        "z": refused(lambda: model.run(IDS, ["z.1"]), AbsentSite),
        "W_U": refused(lambda: model.W_U, NoWeights),
        "gradients": refused(lambda: model.require_exact_weights("gradients"), NoWeights),
    }
Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(told))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two ranks says of a Llama and of an OLMo."""
    path = tmp_path_factory.mktemp("ranks")
    (path / "rank.py").write_text(RANK)
    folders = []
    for kind in ("llama", "olmo"):
        tiny.build(tiny.shrink(tiny.default_config(kind)), dtype=torch.float32).save_pretrained(path / kind)
        folders.append(str(path / kind))
    endpoint = [
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *endpoint, str(path / "rank.py"), str(path), *folders]
    own = {"OMP_NUM_THREADS": "1", "RESIDSCOPE_CACHE": str(path / "cache"), "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        command,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    return folders, [json.loads((path / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_each_rank_has_the_same_certificate_and_the_whole_models_numbers(told):
    import residscope as rs
    from residscope import edits

    folders, ranks = told
    for folder in folders:
        whole = rs.load(folder)
        run = whole.run(IDS)
        edited = whole.run(IDS, edits=[edits.scale("attn_out.1", 3.0)]).logits
        assert not torch.allclose(edited, run.logits, rtol=1e-2, atol=1e-2)
        one, other = (rank[folder] for rank in ranks)
        assert one["checks"] == other["checks"]
        assert one["hash"] == other["hash"]
        for rank in (one, other):
            assert rank["passed"]
            assert {"no-op run", "windows", "write the stream"} <= {*rank["checks"]}
            assert rank["sizes"] == [whole.n_layers, whole.n_heads, whole.n_kv_heads, whole.d_mlp]
            assert rank["error"] < 1e-5
            torch.testing.assert_close(
                torch.tensor(rank["stream"]), run["resid_post.1"].flatten(), rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(torch.tensor(rank["edited"]), edited.flatten(), rtol=1e-4, atol=1e-4)


def test_what_one_process_has_no_whole_of_is_refused_in_words(told):
    folders, ranks = told
    for rank in ranks:
        for folder in folders:
            assert "each of 2 processes computes a part of the heads" in rank[folder]["z"]
            assert "spread over 2 ranks" in rank[folder]["gradients"]
            assert "each process holds a part of it" in rank[folder]["W_U"]
