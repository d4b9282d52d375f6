"""What the viewer's guide says of the stream itself, as numbers: it starts as embeddings, layers add to it, its end predicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from residscope.directions import Dictionary
from residscope.engine.model import Model


@dataclass(frozen=True)
class StreamErrors:
    """Largest errors, relative to the largest entry.

    start: the stream before block 0 against each token's embedding, taken where that token is alone, and its position's, taken
    from another prompt. added: a block's output against its input and what attention and MLP add. end: logits read off the last
    row against the model's own; before: off the row before it, which has a block still to come (the control). mixed: the
    coordinate along a mix of components against the mix of their coordinates. tolerance: what rounding may do in this dtype.
    """

    start: float
    added: float
    end: float
    before: float
    mixed: float
    tolerance: float


def stream_errors(model: Model, prompts: Sequence[list[int]], components: Dictionary) -> StreamErrors:
    """Prompts of one length. `components`: of a row of the stream, two or more."""
    positions = ["pos_embed"] if "pos_embed" not in model.sites.absent else []
    adding = [name for name in ("attn_out", "mlp_out") if name not in model.sites.absent]
    record = model.run(list(prompts), [*positions, "resid_pre", "resid_post", *adding, "logits"])
    first, n = record["resid_pre.0"], model.n_layers
    known, index = torch.unique(record.tokens, return_inverse=True)
    start = model.run([[int(i)] for i in known], ["embed"])["embed"][:, 0][index]
    start = start + sum(record[name].roll(1, 0) for name in positions)
    added = [
        _error(record["resid_pre", i] + sum(record[name, i] for name in adding), record["resid_post", i])
        for i in range(n)
    ]
    end, before = (_error(model.lens(record[name, n - 1]), record.logits) for name in ("resid_post", "resid_pre"))
    a, b, x = components[0], components[1], record[components.site]
    mixed = _error((0.5 * a - 0.2 * b).project(x), 0.5 * a.project(x) - 0.2 * b.project(x))
    return StreamErrors(
        _error(start, first), max(added), end, before, mixed, max(1e-4, 8 * torch.finfo(model.dtype).eps)
    )


def _error(computed: Tensor, wanted: Tensor) -> float:
    return float((computed - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
