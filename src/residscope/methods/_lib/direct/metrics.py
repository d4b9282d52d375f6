"""Metrics that are sums of weights times logits, and their weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.naming import label_of
from residscope.engine.protocols import LogitReadout, Readout
from residscope.engine.recording import Recording
from residscope.errors import NotLinear


def linear(metric: Readout, model: Model) -> LogitReadout:
    """A metric that is a sum of weights times logits. Raises NotLinear for another."""
    if not (isinstance(metric, LogitReadout) and getattr(metric, "linear", False)):
        raise NotLinear(
            "what each part adds is a share of a sum, and this metric is no sum of logits",
            received=label_of(metric, model),
            allowed="a difference of logits (that of two log-probabilities is the same), or a logit",
            fix='rs.logit_diff(" Mary", " John"), or rs.logit(" Mary")',
            on_page="choose a logit difference",
        )
    return metric


def weights_of(metric: Readout, recording: Recording) -> tuple[list[int], Float[Tensor, "batch token"]]:
    """The tokens that a metric reads, and the weight of each one's logit in it, row by row."""
    metric, model, batch = linear(metric, recording.model), recording.model, recording.batch
    ids = metric.columns(model, batch)
    tokens = [*(range(model.d_vocab) if ids is None else ids)]
    wide = torch.promote_types(model.dtype, torch.float32)
    with torch.enable_grad():
        logits = torch.zeros(len(batch), len(tokens), dtype=wide, device=model.device, requires_grad=True)
        (weights,) = torch.autograd.grad(metric.of(logits, ids, model, batch).sum(), logits)
    return tokens, weights
