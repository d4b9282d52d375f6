"""A reading: a metric of one run as a direction of its stream, and how far rounding may lead a sum of writes off."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.layout import Norm, weight_in_out
from residscope.engine.parameters import in_memory
from residscope.engine.protocols import Readout, overlays_of
from residscope.engine.recording import Recording
from residscope.errors import NotAdditive, UnalignedPrompts, WeightsChanged
from residscope.methods._lib.direct.metrics import weights_of
from residscope.methods._lib.direct.sites import changed_sites
from residscope.model.sites import Site

Where = int | str | Sequence[int]
SLACK = 3.0  # how many roundings, of over one standard deviation each, a sum may be off by
SINGLE = float(torch.finfo(torch.float32).eps)  # stock norms, and sums of products, are no finer


class Reading:
    """A metric of one run, ready to read writes with: effect = write . read / sigma.

    metric: what the run's own logits say it is, before their cap where they have one. bias: what the unembedding's bias adds.
    """

    def __init__(self, recording: Recording, metric: Readout, pos: Where) -> None:
        self.recording, self.model, self.layout = recording, recording.model, recording.model.layout
        if recording.stale:
            raise WeightsChanged(
                "the model has changed since this run",
                allowed="a run of the model as it is",
                fix="run the prompt again",
            )
        self.changed = changed_sites(self.model, recording.edits)
        self.overlays = overlays_of(recording.edits, self.layout)
        self.index = _index(recording, pos)
        self.rows = torch.arange(len(self.index))[:, None]
        self.eps = max(float(torch.finfo(self.model.dtype).eps), SINGLE)
        ids, weights = weights_of(metric, recording)
        times, unembed = self.layout.factors.logits, self.layout.unembed
        columns = self.weight(unembed, ids).to(weights) * times
        biases = in_memory(unembed, "bias")
        biases = None if biases is None else biases[ids].to(weights) * times
        self.bias = None if biases is None else weights @ biases
        self.column, norm = weights @ columns.T, self.layout.final_norm  # reads the final norm's output
        self.read = norm.center(norm.gain.to(weights) * self.column)
        self.sigma = self.at("final_scale")[..., 0]
        self.metric, self.rounding = self._metric(ids, weights, columns, biases)
        self.size = torch.zeros_like(self.at("final_norm"))  # of all writes together, without their signs

    def at(self, site: str | Site) -> Float[Tensor, "batch pos ..."]:
        """What the run has at a site, at the positions asked for."""
        return self.own(site).to(self.column)

    def own(self, site: str | Site) -> Float[Tensor, "batch pos ..."]:
        """The same in the model's own dtype, as its modules read it."""
        return self._picked(self.recording[site])

    def at_queries(self, site: str) -> Float[Tensor, "batch pos head source"]:
        """What the run has at a site of attention, [head query source], at the queries asked for."""
        return self._picked(self.recording[site].movedim(1, 2)).to(self.column)

    def _picked(self, value: Tensor) -> Tensor:
        return value[self.rows.to(value.device), self.index.to(value.device)]

    def effect(self, write: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """What a write adds to the metric."""
        self.size += write.abs()
        return torch.einsum("bpm,bm->bp", write, self.read) / self.sigma

    def spread(self, value: Float[Tensor, "batch"]) -> Float[Tensor, "batch pos"]:
        """A value of each row, at each of its positions."""
        return value[:, None].expand_as(self.metric).clone()

    def weight(self, module: Any, columns: Any = slice(None)) -> Float[Tensor, "d_in d_out"]:
        """What the module multiplied by in this run; some of its columns."""
        weight = weight_in_out(module)[:, columns]
        for laid in self.overlays:
            if laid.module is module:
                weight = weight + (laid.A @ laid.B[:, columns]).to(weight)
        return weight

    def through(
        self, projection: Any, post: Norm | None, scale: str
    ) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """What a projection's input is read by, as its output comes into the stream, and over what; and what biases add."""
        read, divisor, bias = self.onward(projection, post, scale)
        return read @ self.weight(projection).to(read).T, divisor, bias

    def onward(
        self, projection: Any, post: Norm | None, scale: str
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """What a projection's output is read by, and over what; and what its bias and its post-norm's add."""
        read, divisor, bias = self.read * self.layout.factors.residual, self.sigma, torch.zeros_like(self.sigma)
        if post is not None:
            if post.bias is not None:
                bias = bias + (read @ post.bias.to(read))[:, None] / divisor
            read = post.center(post.gain.to(read) * read)
            divisor = divisor * self.at(scale)[..., 0]
        if (own := in_memory(projection, "bias")) is not None:
            bias = bias + (read @ own.to(read))[:, None] / divisor
        return read, divisor, bias

    def allowed(self) -> Float[Tensor, "batch pos"]:
        """What rounding the stream at each of its 2 n additions may come to, read as the writes are."""
        size = torch.einsum("bpm,bm->bp", self.size.square(), self.read.square()).sqrt() / self.sigma
        return size * self.eps * SLACK * sqrt(2 * self.model.n_layers) + self.rounding

    def _metric(
        self,
        ids: list[int],
        weights: Float[Tensor, "batch token"],
        columns: Float[Tensor, "d_model token"],
        biases: Float[Tensor, "token"] | None,
    ) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """The metric of the run's own logits, before their cap, and how far rounding may have moved it."""
        normed, cap = self.at("final_norm"), self.layout.factors.logits_cap
        logits = self._picked(self.recording.logits_of(ids)).to(columns)
        before = normed @ columns + (0 if biases is None else biases) if cap is not None else logits
        size = (normed.square() @ columns.square()).sqrt() + before.abs()
        rounding = size * (
            self.eps * SLACK + SINGLE * sqrt(len(columns))
        )  # of what the columns read, and of their sums
        if cap is not None:
            failed = "the unembedding does not give the run's own logits"
            require(failed, (before / cap).tanh() * cap, logits, rounding + self.eps * cap)
        metric = torch.einsum("bpt,bt->bp", before, weights)
        return metric, torch.einsum("bpt,bt->bp", rounding, weights.abs())


def _index(recording: Recording, pos: Any) -> Int[Tensor, "batch pos"]:
    n = len(recording.lengths)
    if isinstance(pos, str):
        if pos != "each" or len({*recording.lengths}) > 1:
            raise UnalignedPrompts(
                "positions of prompts of unequal length do not correspond" if pos == "each" else "no such positions",
                received=f"{pos!r}, lengths {min(recording.lengths)} to {max(recording.lengths)}",
                allowed='a position, one for each prompt, or "each" of prompts of one length',
            )
        return torch.arange(recording.lengths[0] - recording.offset).expand(n, -1)
    each = [pos] * n if isinstance(pos, int) else [*pos]
    return torch.tensor([[recording.index(at, row)] for row, at in enumerate(each)])


def require(failed: str, got: Tensor, expected: Tensor, allowed: Tensor) -> float:
    """How far they are apart. Raises NotAdditive where that is more than rounding, or no number."""
    apart = (got - expected).abs()
    if not bool((apart <= allowed).all()):
        worst = int((apart - allowed).nan_to_num(torch.inf).argmax())
        raise NotAdditive(
            failed,
            received=f"{float(got.flatten()[worst]):.6g} against {float(expected.flatten()[worst]):.6g} logits",
            allowed=f"a difference of {float(allowed.flatten()[worst]):.2g}, which rounding explains",
            fix="check the model's certificate, and that no hook of your own changes what is written",
        )
    return float(apart.max())
