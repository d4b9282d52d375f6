"""TransformerLens 4.3 as a peer: its bridge over the same Hugging Face weights, and its own patching functions.

Runs in .bench-venv, started by `Peer("transformer_lens")`. Patches put the clean prompt's activation into the corrupted run;
the metric is logit(answers[0]) - logit(answers[1]) at the last position.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

HERE = str(Path(__file__).parent)
sys.path.remove(HERE)  # this file has the library's name
from transformer_lens import patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

sys.path.append(HERE)
import tl_methods  # noqa: E402
from wire import Clock, load, serve  # noqa: E402

bridge: Any = None


def load_model(clock: Clock, folder: str, threads: int) -> dict[str, Any]:
    global bridge

    def made() -> Any:
        hf, tokenizer = load(folder, threads, attention="eager")
        return TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer, dtype=torch.float32)

    with clock.running():
        bridge = made()
    tl_methods.use(bridge, made)
    return {"version": version("transformer-lens"), "torch": torch.__version__, "threads": torch.get_num_threads()}


def forward(clock: Clock, ids: list[list[int]]) -> dict[str, Any]:
    tokens = torch.tensor(ids)
    with clock.running():
        logits = bridge(tokens)
    return {"logits": logits[:, -1].numpy()}


def record(clock: Clock, ids: list[list[int]], *, everything: bool = True) -> dict[str, Any]:
    """run_with_cache: every hook point, or, asked so, the stream and the patterns alone."""
    tokens, last = torch.tensor(ids), bridge.cfg.n_layers - 1
    wanted = None if everything else lambda name: name.endswith(("hook_resid_pre", "hook_resid_post", "hook_pattern"))
    with clock.running():
        _, cache = bridge.run_with_cache(tokens, names_filter=wanted)
    stream = np.stack([cache["resid_pre", layer].numpy() for layer in range(last + 1)])
    return {"tensors": len(cache), "resid_pre": stream, "pattern": cache["pattern", last].numpy()}


def _patch(
    clock: Clock,
    clean: list[int],
    corrupted: list[int],
    answers: list[int],
    cells: list[list[int]],
    name: str,
    setter: Any,
) -> dict[str, Any]:
    """Their own sweep over the cells given, one forward each. The clean run is recorded off the clock."""
    one, other = torch.tensor([clean]), torch.tensor([corrupted])
    _, cache = bridge.run_with_cache(one, names_filter=lambda hook: hook.endswith(f"hook_{name}"))
    axes = ["layer", "pos" if name == "resid_pre" else "head"]
    with clock.running():
        metric = patching.generic_activation_patch(
            bridge, other, cache, lambda logits: logits[0, -1, answers[0]] - logits[0, -1, answers[1]], setter, name,
            index_df=pd.DataFrame(cells, columns=axes),
        )  # fmt: skip
    return {"metric": metric.numpy()}


def residual_patch(clock: Clock, **given: Any) -> dict[str, Any]:
    """resid_pre at cells of (layer, position)."""
    return _patch(clock, **given, name="resid_pre", setter=patching.layer_pos_patch_setter)


def head_patch(clock: Clock, **given: Any) -> dict[str, Any]:
    """z of cells of (layer, head), at all positions."""
    return _patch(clock, **given, name="z", setter=patching.layer_head_vector_patch_setter)


def generate(
    clock: Clock, ids: list[int], layer: int, direction: list[float], strength: float, new_tokens: int
) -> dict[str, Any]:
    """Greedy tokens while strength times the unit direction is added to resid_pre at every position."""
    vector = torch.tensor(direction)
    step = strength * vector / vector.norm()
    with clock.running(), bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda x, hook: x + step)]):
        out = bridge.generate(
            torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False, stop_at_eos=False, return_type="tokens",
            verbose=False,
        )  # fmt: skip
    return {"tokens": out[0].numpy()}


if __name__ == "__main__":
    ops = (forward, record, residual_patch, head_patch, generate, *tl_methods.OPS)
    serve({"load": load_model, **{op.__name__: op for op in ops}})
