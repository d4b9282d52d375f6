"""nnsight as a peer: traces over the same Hugging Face weights.

Runs in .bench-venv, started by `Peer("nnsight")`. Eager attention, since patterns are read. Cells are patched one trace
each, or `batch` at a time as invokes of one trace, which it runs as one batch.
"""

# ruff: noqa: C408  (list().save() is nnsight's own spelling)
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = str(Path(__file__).parent)
sys.path.remove(HERE)  # this file has the library's name
from nnsight import LanguageModel  # noqa: E402

sys.path.append(HERE)
from wire import Clock, load, serve  # noqa: E402

model: Any = None


def load_model(clock: Clock, folder: str, threads: int) -> dict[str, Any]:
    global model
    with clock.running():
        hf, tokenizer = load(folder, threads, attention="eager")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model = LanguageModel(hf, tokenizer=tokenizer)
    return {"version": version("nnsight"), "torch": torch.__version__, "threads": torch.get_num_threads()}


def forward(clock: Clock, ids: list[list[int]]) -> dict[str, Any]:
    tokens = torch.tensor(ids)
    with clock.running(), model.trace(tokens):
        logits = model.lm_head.output.save()
    return {"logits": logits[:, -1].numpy()}


def record(clock: Clock, ids: list[list[int]], *, everything: bool = False) -> dict[str, Any]:
    """The stream before every block and every pattern."""
    if everything:
        raise ValueError("nnsight has no call that records everything")
    tokens = torch.tensor(ids)
    with clock.running(), model.trace(tokens):
        streams, patterns = list().save(), list().save()
        for layer in model.model.layers:
            streams.append(layer.input)
            patterns.append(layer.self_attn.output[1])
    stream = np.stack([x.numpy() for x in streams])
    return {"tensors": len(streams) + len(patterns), "resid_pre": stream, "pattern": patterns[-1].numpy()}


def _streams(ids: list[int]) -> list[torch.Tensor]:
    with model.trace(torch.tensor([ids])):
        streams = list().save()
        for layer in model.model.layers:
            streams.append(layer.input)
    return streams


def residual_patch(
    clock: Clock, clean: list[int], corrupted: list[int], answers: list[int], cells: list[list[int]], batch: int = 1
) -> dict[str, Any]:
    """resid_pre at cells of (layer, position) from the clean run, which is recorded off the clock."""
    streams, tokens, layers = _streams(clean), torch.tensor([corrupted]), model.model.layers
    found: list[torch.Tensor] = []
    with clock.running():
        if batch == 1:
            for layer, pos in cells:
                with model.trace(tokens):
                    layers[layer].input[:, pos] = streams[layer][:, pos]
                    logits = model.lm_head.output[:, -1].save()
                found.append(logits)
        for at in range(0, len(cells) if batch > 1 else 0, batch):
            with model.trace() as tracer:
                several = list().save()
                for layer, pos in cells[at : at + batch]:
                    with tracer.invoke(tokens):
                        layers[layer].input[:, pos] = streams[layer][:, pos]
                        several.append(model.lm_head.output[:, -1])
            found += several
    logits = torch.cat(found)
    return {"metric": (logits[:, answers[0]] - logits[:, answers[1]]).numpy()}


def head_patch(
    clock: Clock, clean: list[int], corrupted: list[int], answers: list[int], cells: list[list[int]]
) -> dict[str, Any]:
    """z of cells of (layer, head), at all positions: the head's columns of what the output projection reads."""
    with model.trace(torch.tensor([clean])):
        zs = list().save()
        for layer in model.model.layers:
            zs.append(layer.self_attn.o_proj.input)
    d_head, found = model.config.head_dim, []
    tokens = torch.tensor([corrupted])
    with clock.running():
        for layer, head in cells:
            columns = slice(head * d_head, (head + 1) * d_head)
            with model.trace(tokens):
                model.model.layers[layer].self_attn.o_proj.input[:, :, columns] = zs[layer][:, :, columns]
                logits = model.lm_head.output[:, -1].save()
            found.append(logits)
    logits = torch.cat(found)
    return {"metric": (logits[:, answers[0]] - logits[:, answers[1]]).numpy()}


if __name__ == "__main__":
    serve({"load": load_model, **{op.__name__: op for op in (forward, record, residual_patch, head_patch)}})
