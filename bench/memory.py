"""What loading and recording cost in memory, against the weights and the stream: peaks of fresh processes.

python -m bench.memory load      one measurement, as JSON: rs.load and a forward, its certificate known
python -m bench.memory first     the same with the certificate measured
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Row

PAGE = 4096


def rows(*, quick: bool = False) -> Iterator[Row]:
    for kind, name in (("load", "load and one forward, again"), ("first", "load for the first time")):
        found = measured(kind)
        note = "peak growth against the weights; tokenizer and certificate count"
        yield _row(name, found["grown"], found["weights"], note=note)
    held, stream = _recorded()
    yield _row("recording, 30 layers x 1,024", held, stream, note="against the bytes of its resid_pre")


def measured(kind: str) -> dict[str, int]:
    """Peak growth of a fresh process from after the imports, and the weights' size, in bytes."""
    run = subprocess.run([sys.executable, "-m", "bench.memory", kind], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def _row(name: str, ours: int, theirs: int, *, note: str) -> Row:
    ratio = ours / theirs
    return Row(name, ours, theirs, ratio, ratio, ratio, 1.1, 1, note, unit="bytes")


def _recorded() -> tuple[int, int]:
    import torch

    import residscope as rs

    model = rs.load("smollm2-135m")
    ids = torch.randint(0, model.d_vocab, (1, 1024), generator=torch.Generator().manual_seed(0))
    return model.run(ids).nbytes, model.n_layers * ids.numel() * model.d_model * model.dtype.itemsize


def _here(kind: str) -> dict[str, int]:
    """Measure in this process: load, then read every weight once, so that mapped pages count."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: F401

    import residscope as rs
    from residscope.engine import certificate

    # the libraries' own code is read in by a first use: a model of a few kilobytes
    tiny = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    rs.load((LlamaForCausalLM(tiny).eval(), None))
    if kind == "first":
        certificate._read = lambda path: None  # type: ignore[assignment]
    before = _resident()
    model = rs.load("smollm2-135m")
    if kind == "load":
        with torch.no_grad():
            model.hf(torch.arange(16)[None], use_cache=False)
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in model.hf.parameters()}
    return {"weights": sum(storages.values()), "grown": _peak() - before, "cached": int(model.certificate.cached)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _peak() -> int:
    """The most this process has held at once; of the process itself, where getrusage keeps what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1])))
