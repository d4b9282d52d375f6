"""What runs inside a peer's process: commands in, answers out, a line of JSON each; arrays in a file beside.

A command is {"op": name, "out": file for arrays, ...arguments}; an answer {"seconds": of the operation alone, "facts": {...},
"arrays": whether the file was written} or {"error": text}. Nothing here is Residscope's: the peer's environment has none of it.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


class Clock:
    """Times the blocks inside `with clock.running():`, and nothing else."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


Op = Callable[..., Mapping[str, Any]]


def serve(ops: Mapping[str, Op]) -> None:
    """Answer commands until stdin ends. An operation gets a clock and its arguments; arrays it returns go to the file."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints must not reach the answers
    for line in sys.stdin:
        command = json.loads(line)
        op, out, clock = command.pop("op"), command.pop("out", None), Clock()
        try:
            returned = dict(ops[op](clock, **command))
            arrays = {k: v for k, v in returned.items() if isinstance(v, np.ndarray)}
            if arrays:
                np.savez(out, **arrays)
            facts = {k: v for k, v in returned.items() if k not in arrays}
            answer = {"seconds": clock.seconds, "facts": facts, "arrays": bool(arrays)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def load(folder: str, threads: int, *, attention: str) -> tuple[Any, Any]:
    """The Hugging Face model of a folder as float32 on the CPU, gradients off, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    hf = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation=attention
    )
    return hf.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
