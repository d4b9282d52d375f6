"""Twins whose attention is odd."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from twins import (
    MLP,
    Attention,
    Block,
    Draw,
    Parts,
    by_position,
    odd,
    tap,
    twin,
)


class Permuted(Attention):
    """What the heads give is put together in another order."""

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(tap("z", z).roll(1, 2).flatten(2))


twin("heads permuted", served=True, lacks="z result")(odd(attention=Permuted))


class GatedZ(Attention):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.gate = nn.Linear(draw.d_model, draw.d_model)

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(tap("z", (z.flatten(2) * torch.sigmoid(self.gate(x))).view_as(z)).flatten(2))


twin("a gate on z", served=True)(odd(attention=GatedZ))


class NormedZ(Attention):
    """The mix of each head is normed."""

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(tap("z", z / z.norm(dim=-1, keepdim=True)).flatten(2))


twin("z normed by head")(odd(attention=NormedZ))


class Beside(Attention):
    """The attention's module writes something else too."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.beside = nn.Linear(draw.d_model, draw.d_model, bias=False)

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return super().out(z, x) + self.draw.by * self.beside(x)


twin("something beside the heads in attention's output")(odd(attention=Beside))


class OneBeside(Attention):
    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return super().out(z, x) + self.draw.by * x if self.odd else super().out(z, x)


twin("attention passes its input on in one layer")(odd(attention=OneBeside))


class Own(Attention):
    """Attention computed by itself; `scored` and `patterned` are what a twin changes."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = tap("scores", self.scored(torch.matmul(q, k.transpose(2, 3)) * self.scaling) + mask)
        pattern = self.patterned(scores)
        return torch.matmul(pattern, v).transpose(1, 2)

    def scored(self, scores: Tensor) -> Tensor:
        return scores

    def patterned(self, scores: Tensor) -> Tensor:
        return tap("pattern", scores.softmax(-1))


OWN = {"interface": False}


class CappedScores(Own):
    def scored(self, scores: Tensor) -> Tensor:
        cap = 2 + self.draw.by
        return torch.tanh(scores / cap) * cap


twin("a cap on the scores that the configuration does not say", **OWN)(odd(attention=CappedScores))


class EditedPattern(Own):
    """The pattern is changed after the softmax: the first token gets nothing, and so nothing sums to one."""

    def patterned(self, scores: Tensor) -> Tensor:
        pattern = scores.softmax(-1)
        return tap("pattern", torch.cat([pattern[..., :1] * abs(self.draw.by), pattern[..., 1:]], -1))


twin("the pattern changed after the softmax", **OWN)(odd(attention=EditedPattern))


class Sinks(Own):
    """A sink that no configuration tells: a column of the softmax that gives nothing."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.sinks = nn.Parameter(torch.ones(draw.heads))

    def patterned(self, scores: Tensor) -> Tensor:
        column = self.sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        return tap("pattern", torch.cat([scores, column], -1).softmax(-1)[..., :-1])


twin("sinks in the softmax", **OWN)(odd(attention=Sinks))


class Sharper(Own):
    """Two softmaxes, one subtracted from the other."""

    def patterned(self, scores: Tensor) -> Tensor:
        return tap("pattern", scores.softmax(-1) - abs(self.draw.by) * (scores * 0.5).softmax(-1))


twin("the difference of two softmaxes", **OWN)(odd(attention=Sharper))


class TalkingHeads(Own):
    """Heads mix their patterns."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.talk = nn.Parameter(torch.eye(draw.heads))

    def patterned(self, scores: Tensor) -> Tensor:
        return tap("pattern", torch.einsum("bhqk,hg->bgqk", scores.softmax(-1), self.talk))


twin("heads mix their patterns", **OWN)(odd(attention=TalkingHeads))


class Linear(Own):
    """No softmax: products alone, divided by their number."""

    def patterned(self, scores: Tensor) -> Tensor:
        kept = scores > -1e4
        return tap("pattern", torch.where(kept, scores, 0) / kept.sum(-1, keepdim=True))


twin("attention without a softmax", **OWN)(odd(attention=Linear))


class CappedByInterface(Attention):
    """A cap in the model's own kernel, of which transformers' interface is told nothing."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if self.config._attn_implementation != "eager":
            return super().mix(q, k, v, mask)
        groups, cap = q.shape[1] // k.shape[1], 2 + self.draw.by
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.tanh(q @ k.transpose(2, 3) * self.scaling / cap) * cap
        return ((scores + mask).softmax(-1) @ v).transpose(1, 2)


twin("an eager kernel that is not the interface's", interface=True)(odd(attention=CappedByInterface))


class ValueResidual(Attention):
    """Values hold a part of the attention's whole input."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        return q, k, v + self.draw.by * self.heads(x)[:, : v.shape[1]]


twin("values with a part of the input", served=True)(odd(attention=ValueResidual))


class FirstValues(Attention):
    """Values hold a part of the first layer's."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        if self.layer == 0:
            self.config.__dict__["first_values"] = v.detach()
        return q, k, v + self.draw.by * self.config.__dict__["first_values"]


twin("values with a part of the first layer's")(odd(attention=FirstValues))


class NormedQueries(Attention):
    """Queries made unit vectors."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        return q / q.norm(dim=-1, keepdim=True) * 4, k, v


twin("queries made unit vectors", served=True)(odd(attention=NormedQueries))


class OneHot(Attention):
    """One head's output is nothing past some position."""

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        if self.odd:
            z = torch.cat([torch.zeros_like(z[:, :, :1]), z[:, :, 1:]], 2)
        return super().out(z, x)


twin("a head that is cut", served=True)(odd(attention=OneHot))


class Scrambled(Attention):
    """Keys and values come from the token before."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, _, _ = super().qkv(x)
        before = functional.pad(x[:, :-1], (0, 0, 1, 0))
        _, k, v = super().qkv(x + self.draw.by * before)
        return q, k, v


twin("keys and values of a mix of tokens")(odd(attention=Scrambled))


class HeadScaled(Attention):
    """What each head gives times a learned number of its own."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.times = nn.Parameter(torch.ones(draw.heads))

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(tap("z", z * self.times[:, None]).flatten(2))


twin("each head scaled", served=True)(odd(attention=HeadScaled))


class FewerHeads(Attention):
    """One layer has half as many heads."""

    def __init__(self, draw: Draw, layer: int) -> None:
        draw = replace(draw, heads=draw.heads // 2, kv_heads=draw.heads // 2) if layer == draw.odd else draw
        super().__init__(draw, layer)
        wide = draw.d_model * 2 if self.odd else draw.d_model
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(wide, getattr(self, name).out_features, bias=draw.biased))
        self.o_proj = nn.Linear(draw.d_model, wide, bias=draw.biased)


twin("one layer with half the heads", served=True, layers=3, heads=4)(odd(attention=FewerHeads))


class PlacedInside(Attention):
    """Queries and keys read positions as well."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.places = nn.Parameter(torch.ones(96, draw.d_model))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        placed = x + self.places[: x.shape[1]]
        return self.heads(self.q_proj(placed)), self.heads(self.k_proj(placed)), self.heads(self.v_proj(x))


twin("queries and keys that read positions")(odd(attention=PlacedInside))


class LateHead(Attention):
    """Past some position a head is cut."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        z = super().mix(q, k, v, mask)
        length = mask.shape[-1]
        late = torch.arange(length - q.shape[2], length) >= self.draw.past
        return torch.where(late[:, None, None] & (torch.arange(z.shape[2]) == 0)[:, None], z * self.draw.by, z)


twin("a head cut past some position")(odd(attention=LateHead))


class TwoInputs(Block):
    """Values are made of the stream as it is, queries and keys of the normed one."""

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.self_attn(self.input_layernorm(x), plain=x, **more))


class TwoInputsAttention(Attention):
    def forward(self, x: Tensor, mask: Any = None, cache: Any = None, turn: Any = None, plain: Any = None) -> Tensor:
        self.__dict__["plain"] = plain
        return super().forward(x, mask, cache, turn)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, _ = super().qkv(x)
        return q, k, self.heads(self.v_proj(self.__dict__["plain"]))


twin("values of another stream than queries")(odd(block=TwoInputs, attention=TwoInputsAttention))


class Delayed(Block):
    """A block adds a part of what the block before it wrote."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        wrote = more["mask"].__dict__.get("wrote")
        more["mask"].__dict__["wrote"] = y - x
        return y if wrote is None else y + self.draw.by * wrote


twin("a part of the block before added again")(odd(block=Delayed))


class HeadNorm(nn.Module):
    """A norm over each head's entries."""

    def __init__(self, draw: Draw, name: str) -> None:
        super().__init__()
        self.name, self.eps = name, 1e-5
        self.weight = nn.Parameter(torch.ones(draw.d_head))

    def forward(self, x: Tensor) -> Tensor:
        sigma = by_position(f"{self.name}_scale", (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return x / sigma * self.weight


class QKNormed(Attention):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.q_norm, self.k_norm = HeadNorm(draw, "q"), HeadNorm(draw, "k")

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x)
        return self.q_norm(q), self.k_norm(k), v


twin("queries and keys normed", served=True)(odd(attention=QKNormed))


class QKExchanged(QKNormed):
    """The norm called q_norm is that of the keys; in one layer queries are not normed."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.q_norm.name, self.k_norm.name = "k", "q"
        q, k, v = super(QKNormed, self).qkv(x)
        return q if self.odd else self.k_norm(q), self.q_norm(k), v


twin("norms of queries and keys exchanged", served=True)(odd(attention=QKExchanged))


class WholeNorm(nn.Module):
    """A norm over the entries of every head; its divisor is told head by head."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw, self.eps = draw, 1e-5
        self.weight = nn.Parameter(torch.ones(draw.d_model))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], self.draw.heads, -1)
        sigma = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        sigma = tap("q_scale", sigma.unsqueeze(2).expand(*heads.shape[:3], 1))
        return (heads / sigma).flatten(2) * self.weight


class QKWhole(Attention):
    """Queries are normed over all heads together."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.q_norm = WholeNorm(draw)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.heads(self.q_norm(self.q_proj(x))), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))


twin("queries normed over all heads", served=True)(odd(attention=QKWhole))


class SharedHeadNorm(QKNormed):
    """One norm for queries and keys."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.k_norm = self.q_norm

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super(QKNormed, self).qkv(x)
        normed = []
        for name, value in (("q", q), ("k", k)):
            self.q_norm.name = name
            normed.append(self.q_norm(value))
        return *normed, v


twin("one norm for queries and keys", served=True)(odd(attention=SharedHeadNorm))


class Inside(Block):
    """The norms stand in the branches."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.self_attn.norm, self.mlp.norm = self.input_layernorm, self.post_attention_layernorm
        del self.input_layernorm, self.post_attention_layernorm

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.self_attn(x, **more))

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.mlp(x))


class NormsFirst(Attention):
    def forward(self, x: Tensor, mask: Any = None, cache: Any = None, turn: Any = None) -> Tensor:
        return super().forward(self.norm(x), mask, cache, turn)


class NormsFirstMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


twin("norms within the branches")(odd(block=Inside, attention=NormsFirst, mlp=NormsFirstMLP))
