"""Peers: other libraries in processes of their own, driven step by step, so that their timings alternate with ours.

    make peers                                        once: .bench-venv with the pinned versions

    with Peer("transformer_lens", threads=2) as peer:
        answer = peer.call("residual_patch", clean=ids, corrupted=others, answers=[5099, 3083], cells=[[4, 10], [5, 10]])
        answer.seconds / 2, answer["metric"]

A peer works only between a call and its answer: while we are timed it waits on a pipe.
"""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".bench-venv" / "bin" / "python"
PEERS = ("transformer_lens", "nnsight", "interp_engine")


class PeerError(Exception):
    """A peer is not installed, has gone, or raised; its own words are in the message."""


@dataclass(frozen=True)
class Answer:
    """What an operation gave: `seconds` by the peer's own clock, around the operation alone; arrays by name."""

    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


class Peer:
    """One library in its own process, with a model loaded from a folder, in float32 on the CPU.

    `folder`: as `save_pretrained` writes it; the default model's unless said. `about`: versions and threads, as it says them.
    """

    def __init__(
        self, name: str, *, folder: Path | None = None, threads: int | None = None, python: Path = PYTHON
    ) -> None:
        import torch

        if not python.is_file():
            raise PeerError(f"{name} needs its own environment, which is not at {python.parents[1]}: run `make peers`")
        threads = threads or torch.get_num_threads()
        offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.name = name
        self._files = tempfile.TemporaryDirectory(prefix="peer-")
        self._log = (Path(self._files.name) / "log").open("w+")
        self._process = subprocess.Popen(
            [python, HERE / f"{name}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=kept | offline | {"OMP_NUM_THREADS": str(threads)},
        )
        try:
            self.about = dict(self.call("load", folder=str(folder or default_folder()), threads=threads).facts)
        except BaseException:
            self.close()
            raise

    def call(self, op: str, **arguments: Any) -> Answer:
        """Do one operation; the runner's file says which there are.

        Raises:
            PeerError: it raised, or its process has gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = Path(self._files.name) / "arrays.npz"
        try:
            self._process.stdin.write(json.dumps({"op": op, "out": str(out), **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise PeerError(f"{self.name} has gone, saying: {self._log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name} refused {op}: {answer['error']}")
        arrays = {}
        if answer["arrays"]:
            with np.load(out) as file:
                arrays = dict(file)
            out.unlink()
        return Answer(answer["seconds"], answer["facts"], arrays)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it may have gone already
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()
        self._files.cleanup()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def default_folder() -> Path:
    """Where the default model's converted weights lie: the very files that `rs.load` opens."""
    from residscope.model.catalog import DEFAULT
    from residscope.model.weights import resolve

    return resolve(DEFAULT).path
