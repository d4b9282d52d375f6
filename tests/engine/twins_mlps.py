"""Twins whose MLPs are odd."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from twins import (
    MLP,
    Draw,
    odd,
    tap,
    twin,
)


class LateMixing(MLP):
    """Past some position the MLP reads the token before as well."""

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        late = (torch.arange(x.shape[1]) >= self.draw.past)[:, None] & self.odd
        mixed = torch.where(late, x + self.draw.by * functional.pad(x[:, :-1], (0, 0, 1, 0)), x)
        return tap("mlp_raw", self.down_proj(tap("mlp_post", self.neurons(mixed))))


twin("an MLP that mixes tokens past some position")(odd(mlp=LateMixing))


class OtherWidth(MLP):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(replace(draw, d_mlp=draw.d_mlp + 4) if layer == draw.odd else draw, layer)


twin("one layer with more neurons", served=True, lacks="mlp_pre mlp_gate mlp_post", layers=3)(odd(mlp=OtherWidth))


class Mixing(MLP):
    """An MLP that mixes tokens a little."""

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        mixed = x + self.draw.by * functional.pad(x[:, :-1], (0, 0, 1, 0)) if self.odd else x
        return tap("mlp_raw", self.down_proj(tap("mlp_post", self.neurons(mixed))))


twin("an MLP that mixes tokens")(odd(mlp=Mixing))


class MixingOut(MLP):
    def forward(self, x: Tensor) -> Tensor:
        out = self.down_proj(tap("mlp_post", self.neurons(tap("mlp_in", x))))
        return tap("mlp_raw", out + self.draw.by * functional.pad(out[:, :-1], (0, 0, 1, 0)))


twin("an MLP whose output mixes tokens")(odd(mlp=MixingOut))


class Leak(MLP):
    """The MLP's output holds a part of its input."""

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        out = self.down_proj(tap("mlp_post", self.neurons(x)))
        return tap("mlp_raw", out + self.draw.by * x if self.odd else out)


twin("an MLP that passes its input on in one layer")(odd(mlp=Leak))


class NormedNeurons(MLP):
    def neurons(self, x: Tensor) -> Tensor:
        y = super().neurons(x)
        return y / y.norm(dim=-1, keepdim=True)


twin("neurons made a unit vector")(odd(mlp=NormedNeurons))


class Bilinear(MLP):
    """Both factors go through the nonlinearity."""

    def neurons(self, x: Tensor) -> Tensor:
        return functional.silu(self.gate_proj(x)) * functional.gelu(self.up_proj(x))


twin("a gate and an input both bent", gated=True)(odd(mlp=Bilinear))


class Straight(MLP):
    """No nonlinearity: either may be called the gate."""

    def neurons(self, x: Tensor) -> Tensor:
        return tap("mlp_pre", self.up_proj(x)) * tap("mlp_gate", self.gate_proj(x))


twin("two factors and no nonlinearity", served=True, gated=True)(odd(mlp=Straight))


class CutNeurons(MLP):
    """All but the largest neurons are cut."""

    def neurons(self, x: Tensor) -> Tensor:
        y = super().neurons(x)
        least = y.abs().topk(5, -1).values[..., -1:]
        return torch.where(y.abs() >= least, y, 0)


twin("all but a few neurons cut", served=True, gated=False)(odd(mlp=CutNeurons))


class Experts(MLP):
    """Two experts; `chosen` says which tokens take the second."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.router = nn.Linear(draw.d_model, 2, bias=False)
        self.experts = nn.ModuleList([MLP(draw, layer) for _ in range(2)])
        del self.up_proj, self.gate_proj, self.down_proj

    def chosen(self, x: Tensor, logits: Tensor) -> Tensor:
        return logits[..., 1:] > logits[..., :1]

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        logits = tap("router", self.router(x))
        outs = [expert.down_proj(Plain.neurons(expert, x)) for expert in self.experts]
        weights = logits.softmax(-1)
        second = self.chosen(x, logits)
        return tap("mlp_raw", torch.where(second, outs[1] * weights[..., 1:], outs[0] * weights[..., :1]))


class Plain(MLP):
    def neurons(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        return functional.gelu(up) if self.gate_proj is None else functional.silu(self.gate_proj(x)) * up


twin("two experts")(odd(mlp=Experts))


class ByOther(Experts):
    """Experts are picked by something beside the router's logits."""

    def chosen(self, x: Tensor, logits: Tensor) -> Tensor:
        return x[..., :1] > 0


twin("experts picked by something else")(odd(mlp=ByOther))


class RouterReadsOther(Experts):
    """The router reads another value than the experts."""

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        logits = tap("router", self.router(x.roll(1, -1)))
        outs = [expert.down_proj(Plain.neurons(expert, x)) for expert in self.experts]
        weights = logits.softmax(-1)
        return tap("mlp_raw", weights[..., :1] * outs[0] + weights[..., 1:] * outs[1])


twin("a router that reads something else")(odd(mlp=RouterReadsOther))


class Jitter(MLP):
    """What it writes depends on how often it was called."""

    def forward(self, x: Tensor) -> Tensor:
        times = self.__dict__["times"] = self.__dict__.get("times", 0) + 1
        return super().forward(x) * (1 + self.draw.by * (times % 3))


twin("a module with a memory of its calls")(odd(mlp=Jitter))
