"""interp-engine as a peer: its eager backend on the same weights, its capture, and its own hook manager for patches.

Runs in .bench-venv, started by `Peer("interp_engine")`. It has no patching call: a patch is a write at the place that its
address resolves to, one forward for each cell.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = str(Path(__file__).parent)
sys.path.remove(HERE)  # this file has the library's name
import interp_engine  # noqa: E402
from interp_engine.hooks import HookManager  # noqa: E402

sys.path.append(HERE)
from wire import Clock, serve  # noqa: E402

model: Any = None


def load_model(clock: Clock, folder: str, threads: int) -> dict[str, Any]:
    global model
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    with clock.running():
        model = interp_engine.load_model(folder, backend="eager", dtype="float32", device="cpu")
    return {"version": version("interp-engine"), "torch": torch.__version__, "threads": torch.get_num_threads()}


def forward(clock: Clock, ids: list[list[int]]) -> dict[str, Any]:
    tokens = torch.tensor(ids)
    with clock.running():
        logits = model.hf_model(tokens).logits
    return {"logits": logits[:, -1].numpy()}


def record(clock: Clock, ids: list[list[int]], *, everything: bool = False) -> dict[str, Any]:
    """The stream before every block and every pattern."""
    if everything:
        raise ValueError("interp-engine has no call that records everything")
    tokens, n = torch.tensor(ids), model.n_layers
    points = [f"{name}.{layer}" for name in ("resid_pre", "attn_probs") for layer in range(n)]
    with clock.running():
        cache = interp_engine.capture(model, tokens, points)
    stream = np.stack([cache[f"resid_pre.{layer}"].numpy() for layer in range(n)])
    return {"tensors": len(points), "resid_pre": stream, "pattern": cache[f"attn_probs.{n - 1}"].numpy()}


Patch = Callable[[torch.Tensor, torch.Tensor, int], None]


def _patch(
    clock: Clock,
    clean: list[int],
    corrupted: list[int],
    answers: list[int],
    cells: list[list[int]],
    name: str,
    put: Patch,
) -> dict[str, Any]:
    tokens = torch.tensor([corrupted])
    points = [f"{name}.{layer}" for layer in sorted({layer for layer, _ in cells})]
    cache = interp_engine.capture(model, torch.tensor([clean]), points)
    metric = []
    with clock.running():
        for layer, index in cells:
            source = cache[f"{name}.{layer}"]

            def write(x: torch.Tensor, source: torch.Tensor = source, index: int = index) -> torch.Tensor:
                x = x.clone()
                put(x, source, index)
                return x

            with HookManager() as hooks:
                module, side = model.resolve_point(name, layer)
                hooks.write(module, write, point=side)
                logits = model.hf_model(tokens).logits[0, -1]
            metric.append(logits[answers[0]] - logits[answers[1]])
    return {"metric": torch.stack(metric).numpy()}


def residual_patch(clock: Clock, **given: Any) -> dict[str, Any]:
    """resid_pre at cells of (layer, position)."""

    def put(x: torch.Tensor, source: torch.Tensor, pos: int) -> None:
        x[:, pos] = source[:, pos]

    return _patch(clock, **given, name="resid_pre", put=put)


def head_patch(clock: Clock, **given: Any) -> dict[str, Any]:
    """z of cells of (layer, head), at all positions."""
    d_head = model.head_dim

    def put(x: torch.Tensor, source: torch.Tensor, head: int) -> None:
        columns = slice(head * d_head, (head + 1) * d_head)
        x[:, :, columns] = source.reshape(*x.shape)[:, :, columns]

    return _patch(clock, **given, name="z", put=put)


if __name__ == "__main__":
    serve({"load": load_model, **{op.__name__: op for op in (forward, record, residual_patch, head_patch)}})
