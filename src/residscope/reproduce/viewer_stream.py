"""What the viewer's guide says of the stream itself, as numbers: it starts as the embedding, layers add to it, it ends as a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from residscope.engine.model import Model


@dataclass(frozen=True)
class StreamErrors:
    """Largest relative errors. start: the stream before block 0 against the token's (and position's) embedding. added: each block's
    output against its input and what attention and MLP add. end: logits read off the last row against the model's own.
    mixed: the coordinate along a mix of two directions against the mix of their coordinates."""

    start: float
    added: float
    end: float
    mixed: float


def stream_errors(model: Model, prompts: Sequence[list[int]]) -> StreamErrors:
    names = ["embed", "pos_embed"] if model.sites.absent.get("pos_embed") is None else ["embed"]
    record = model.run(list(prompts), [*names, "resid_pre", "resid_post", "attn_out", "mlp_out", "logits"])
    first = record["resid_pre.0"]
    start = _relative(sum((record[name] for name in names), torch.zeros_like(first)), first)
    added = max(
        _relative(record["resid_pre", i] + record["attn_out", i] + record["mlp_out", i], record["resid_post", i])
        for i in range(model.n_layers)
    )
    last = record["resid_post", model.n_layers - 1]
    end = _relative(model.lens(last), record.logits)
    a, b = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0)).to(first)
    mixed = _relative(first @ (0.5 * a - 0.2 * b), 0.5 * (first @ a) - 0.2 * (first @ b))
    return StreamErrors(start, added, end, mixed)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
