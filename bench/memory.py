"""What loading and recording cost in memory, against the weights and the stream: peaks of fresh processes.

python -m bench.memory load      one measurement, as JSON: rs.load and a forward, its certificate known
python -m bench.memory first     the same with the certificate measured
python -m bench.memory look      a look at a model that is loaded and has run, as at one of a type without a file
python -m bench.memory top 8000  a run of so many tokens and its likeliest next; `metric`: a run with a metric
python -m bench.memory mixed 40  a session that is used: so many rounds of prompts, edits, maps and fits
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import Row

PAGE = 4096


def rows(*, quick: bool = False) -> Iterator[Row]:
    for kind, name in (("load", "load and one forward, again"), ("first", "load for the first time")):
        found = measured(kind)
        note = "peak growth against the weights; tokenizer and certificate count"
        yield _row(name, found["grown"], found["weights"], note=note)
    found = measured("look")
    yield _row(
        "load, and the family found by looking",
        found["grown"],
        found["weights"],
        note="peak growth against the weights",
    )
    seconds = found["milliseconds"] / 1000
    note = "processor time, of SmolLM2 (135M), once: the second load looks at nothing; against 5 s"
    yield Row("looking at a model: time", seconds, 5.0, seconds / 5, seconds / 5, seconds / 5, 1.0, 1, note)
    for kind, what in (("top", "`run` and `top(3)`"), ("metric", "`run` with a metric")):
        found = measured(kind)
        note = "peak growth against the bytes of its 31 streams; the stock forward's own values count"
        yield _row(f"{what}, 8,000 tokens", found["grown"], found["stream"], note=note, most=1.2)
    found = measured("mixed")
    note = "resident memory of a session after 40 rounds of prompts, edits, maps and fits, against that after ten"
    yield _row("mixed use", found["after"], found["before"], note=note, most=1.5)
    held, stream = _recorded()
    yield _row("recording, 30 layers x 1,024", held, stream, note="against the bytes of its resid_pre")


def measured(kind: str, *more: str) -> dict[str, int]:
    """Peak growth of a fresh process from after the imports, and the weights' size, in bytes."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.memory", kind, *more], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def _row(name: str, ours: int, theirs: int, *, note: str, most: float = 1.1) -> Row:
    ratio = ours / theirs
    return Row(name, ours, theirs, ratio, ratio, ratio, most, 1, note, unit="bytes")


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
    small = rs.load((LlamaForCausalLM(tiny).eval(), None))
    if kind == "look":
        _looked(small)
    if kind == "first":
        certificate._read = lambda path: None
    before = _resident()
    model = rs.load("smollm2-135m")
    if kind in ("load", "look"):
        with torch.no_grad():
            model.hf(torch.arange(16)[None], use_cache=False)
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in model.hf.parameters()}
    weights, cached, took = sum(storages.values()), int(model.certificate.cached), 0
    if kind == "look":
        before = _resident() - weights
        took = _looked(model)
    return {"weights": weights, "grown": _peak() - before, "cached": cached, "milliseconds": took}


def _looked(model: Any) -> int:
    """How long a look at a model takes, in milliseconds of the processor."""
    from residscope.engine.look import look

    began = time.process_time()
    assert look(model.hf).found
    return round(1000 * (time.process_time() - began))


def _long(kind: str, length: int) -> dict[str, int]:
    """Measure in this process: one run of a long prompt, read at its end."""
    import residscope as rs

    model = rs.load("smollm2-135m")

    def read(length: int) -> None:
        ids = [1] * length
        if kind == "top":
            model.run(ids).top(3)
        else:
            model.run(ids, readout=rs.logit_diff(5, 7))

    read(8)  # every weight has been read from then on
    before = _resident()
    read(length)
    stream = (model.n_layers + 1) * length * model.d_model * model.dtype.itemsize
    return {"stream": stream, "grown": _peak() - before}


def _mixed(rounds: int) -> dict[str, int]:
    """Measure in this process: what a session holds after ten rounds, and after many."""
    from tempfile import TemporaryDirectory

    import residscope as rs
    from bench.page import prose
    from residscope.session import Session

    model = rs.load("smollm2-135m")
    texts = [prose(model, 20 + 20 * (i % 12), i) for i in range(rounds)]
    with TemporaryDirectory() as folder:
        session = Session(load=rs.load, folder=Path(folder))
        session.load(model, named="smollm2-135m")
        session.wait()
        for i, text in enumerate(texts):
            _round(session, text, i)
            if i == 9:
                before = _resident()
        after = _resident()
        session.close()
    return {"before": before, "after": after, "most": _peak()}


def _round(session: Any, text: str, i: int) -> None:
    """A new prompt and an edit of it, what the page reads of both, and a fit that is kept."""
    session.intent("set_prompt", {"text": text})
    session.intent("set_edits", {"edits": [{"kind": "ablate", "site": f"z.{i % 30}", "head": i % 9}]})
    session.wait()
    for run in [run["id"] for run in session.snapshot()[1]["runs"][-2:]]:
        session.query("stream", {"run": run})
        session.query("coef", {"run": run, "dictionary": f"pca@resid_post.{i % 30}"})
    session.query("map", {"run": run, "positive": 5, "negative": 7})
    corpus = {"kind": "typed", "name": "text", "text": "\n\n".join([text] * 2)}
    args = {"corpus": corpus, "site": f"resid_post.{i % 30}", "n": 2, "tokens": 300}
    session.intent("start", {"method": "pca", "args": args})
    session.wait()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _peak() -> int:
    """The most this process has held at once; of the process itself, where getrusage keeps what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    kind, *more = sys.argv[1:]
    if kind == "mixed":
        print(json.dumps(_mixed(int(more[0]) if more else 40)))
    else:
        print(json.dumps(_long(kind, int(more[0]) if more else 8000) if kind in ("top", "metric") else _here(kind)))
