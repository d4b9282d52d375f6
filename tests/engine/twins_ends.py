"""Twins with odd ends, or odd norms."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from twins import Decoder, Draw, Norm, odd, tap, tap_end, twin, vector


class NormedTwice(Decoder):
    def end(self, x: Tensor) -> Tensor:
        return super().end(self.norm(x))


twin("the final norm applied twice")(NormedTwice)


class Capped(Decoder):
    def end(self, x: Tensor) -> Tensor:
        cap = 2 + self.draw.by
        return torch.tanh(super().end(x) / cap) * cap


twin("a cap on the logits that the configuration does not say")(Capped)


class BiasedLogits(Decoder):
    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.more = nn.Parameter(torch.zeros(self.config.vocab_size))

    def end(self, x: Tensor) -> Tensor:
        return super().end(x) + self.more


twin("a bias added to the logits afterwards")(BiasedLogits)


class CopiedLogits(Decoder):
    """The logits hold a little of those of the token before."""

    def end(self, x: Tensor) -> Tensor:
        logits = super().end(x)
        return logits + self.draw.by * functional.pad(logits[:, :-1], (0, 0, 1, 0))


twin("logits of the token before mixed in")(CopiedLogits)


class Adds(Norm):
    def __init__(self, draw: Draw, role: str, layer: int | None = None) -> None:
        super().__init__(draw, role, layer)
        self.more = vector(draw)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.more if self.odd else super().forward(x)


twin("a norm whose module adds something")(odd(norm=Adds))


class Clamps(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-2.5, 2.5)


twin("a norm whose module clips")(odd(norm=Clamps))


class ClampsFar(Norm):
    """As above, so far out that next to nothing is clipped."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-3.8, 3.8)


twin("a norm whose module clips far out", heads=4, d_head=8)(odd(norm=ClampsFar))


class RunningNorm(Norm):
    """The divisor is of every token so far."""

    def sigma(self, core: Tensor) -> Tensor:
        squares = core.pow(2).mean(-1, keepdim=True)
        count = torch.arange(1, core.shape[1] + 1).view(1, -1, 1)
        return (squares.cumsum(1) / count + self.eps).sqrt() if self.odd else super().sigma(core)


twin("a norm over the tokens so far")(odd(norm=RunningNorm))


class OneKind(Norm):
    """One layer's norms are of the other kind."""

    def core(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.draw.rms == self.odd else x


twin("one layer's norms of the other kind")(odd(norm=OneKind))


class OneOffset(Norm):
    def forward(self, x: Tensor) -> Tensor:
        core = self.core(x)
        sigma = (tap_end if self.role == "final_scale" else tap)(self.role, self.sigma(core))
        out = core / sigma * (self.weight + float(self.odd))
        return out if self.bias is None else out + self.bias


twin("one layer's gains counted from one")(odd(norm=OneOffset))
