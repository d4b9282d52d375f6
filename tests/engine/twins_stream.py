"""Twins that do something else to the stream."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from twins import MLP, Block, Decoder, Draw, Parts, at_layer, odd, tap, twin, vector


class Moved(Block):
    """A norm stands on the stream itself, after the addition, and what it gives is the stream."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        x = self.input_layernorm(x + tap("attn_out", self.self_attn(x, **more)))
        x = tap("resid_mid", x)
        return tap("resid_post", self.post_attention_layernorm(x + tap("mlp_out", self.mlp(x))))


twin("a norm on the stream itself")(odd(block=Moved))


class OneMoved(Block):
    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.input_layernorm.role = "attn_post_scale" if self.odd else "attn_scale"

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        if not self.odd:
            return super().forward(x, **more)
        x = tap("resid_pre", x)
        x = tap("resid_mid", x + tap("attn_out", self.input_layernorm(self.self_attn(x, **more))))
        return tap("resid_post", x + self.thought(x))


twin("one layer's norm moved behind its branch", served=True, lacks="attn_scale", parallel=False)(odd(block=OneMoved))


class NormedBetween(Block):
    """The MLP reads, and its sum is with, the normed stream."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        x = tap("resid_mid", x + self.attended(x, more))
        y = self.post_attention_layernorm(x)
        return tap("resid_post", y + tap("mlp_out", self.mlp(y)))


twin("the normed stream carried on")(odd(block=NormedBetween))


class Gated(Block):
    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.gate = nn.Linear(draw.d_model, draw.d_model)

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        return y * torch.sigmoid(self.gate(y)) if self.odd else y


twin("a gate after the residual")(odd(block=Gated))


class Carried(Block):
    """What is carried on is so much of what came."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        x = tap("resid_mid", x * (1 + self.draw.by) + self.attended(x, more))
        return tap("resid_post", x + self.thought(x))


twin("a scale on what is carried on")(odd(block=Carried))


class LearnedScale(Block):
    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.scale = vector(draw)

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return super().forward(x, **more) * self.scale


twin("a learned scale on the stream")(odd(block=LearnedScale))


class OneScaled(Block):
    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        times = 1 + self.draw.by if self.odd else 1
        return tap("attn_out", self.self_attn(self.input_layernorm(x), **more) * times)


twin("a scale on one layer only")(odd(block=OneScaled))


class ScaledVector(Block):
    """Layer scale: what a branch writes, times a learned vector."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.scale = vector(draw)

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.mlp(self.post_attention_layernorm(x)) * self.scale)


twin("a learned scale on a branch")(odd(block=ScaledVector))


class FromStart(Decoder):
    """Each block adds a little of the embedding."""

    def through(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        start = x
        for block in self.layers:
            block.__dict__["start"] = start
        return super().through(x, more)


class AddsStart(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        return y + self.draw.by * self.__dict__["start"] if self.odd else y


twin("a hidden residual from the embedding")(lambda draw: FromStart(draw, Parts(block=AddsStart)))


class Skips(Decoder):
    """The stream of two blocks before is added, between the blocks."""

    def through(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        earlier = [x]
        for i, block in enumerate(self.layers):
            at_layer(i)
            x = block(x, **more)
            if i == max(1, self.draw.odd):
                x = x + self.draw.by * earlier[-2 if len(earlier) > 1 else -1]
            earlier.append(x)
        return x


twin("the stream of two blocks before added between blocks")(Skips)


class Behind(Decoder):
    """Something is done to the stream between the last block and the final norm."""

    def end(self, x: Tensor) -> Tensor:
        return super().end(x + self.draw.by * x.roll(1, -1))


twin("the stream changed before the final norm")(Behind)


class BehindTokens(Decoder):
    def end(self, x: Tensor) -> Tensor:
        before = functional.pad(x[:, :-1], (0, 0, 1, 0))
        return super().end(x + self.draw.by * before)


twin("the stream of the token before, added before the final norm")(BehindTokens)


class Ahead(Decoder):
    def start(self, ids: Tensor, first: int) -> Tensor:
        x = super().start(ids, first)
        return x / x.norm(dim=-1, keepdim=True)


twin("the stream made a unit vector at its start")(Ahead)


class Third(Block):
    """A third branch."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.extra = nn.Linear(draw.d_model, draw.d_model)

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        return y + self.draw.by * torch.tanh(self.extra(x)) if self.odd else y


twin("a third branch in one layer")(odd(block=Third))


class Quiet(MLP):
    """An MLP that is a part of a branch: only its neurons have names."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.neurons(x))


class ThirdNoted(Block):
    """Beside the MLP a matrix that reads the same normed stream, whose output is added as well."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.extra = nn.Linear(draw.d_model, draw.d_model)

    def thought(self, x: Tensor) -> Tensor:
        y = tap("mlp_in", self.post_attention_layernorm(x))
        return tap("mlp_out", tap("mlp_raw", self.mlp(y) + self.extra(y)))


twin("a matrix beside the MLP", served=True, lacks="mlp_pre mlp_gate mlp_post")(odd(block=ThirdNoted, mlp=Quiet))


class Constant(Block):
    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.more = vector(draw)

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return super().forward(x, **more) + self.more * self.draw.by


twin("a vector added by each block")(odd(block=Constant))


class Clipped(Block):
    """The stream is kept within bounds, as half precision asks: only a few entries are out of them."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        return y.clamp(-3, 3) if self.odd else y


twin("the stream clipped")(odd(block=Clipped))


class Narrow(Block):
    """One layer's stream in half precision."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        return y.bfloat16().to(y) if self.odd else y


twin("the stream in another dtype in one layer")(odd(block=Narrow))


class Nothing(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return x if self.odd else super().forward(x, **more)


twin("a layer that does nothing")(odd(block=Nothing))


class Skipped(Decoder):
    """One of the listed blocks is never called."""

    def through(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        for i, block in enumerate(self.layers):
            at_layer(i)
            if i != self.draw.odd:
                x = block(x, **more)
        return x


twin("a layer that is skipped")(Skipped)


class Backwards(Decoder):
    def through(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        for i, block in enumerate(reversed(self.layers)):
            at_layer(i)
            x = block(x, **more)
        return x


twin("the blocks in another order")(Backwards)


@twin("two blocks are one")
def _shared(draw: Draw) -> nn.Module:
    hf = Decoder(draw)
    hf.layers[draw.odd] = hf.layers[draw.odd - 1]
    return hf


@twin("two blocks share their attention")
def _shared_attention(draw: Draw) -> nn.Module:
    hf = Decoder(draw)
    hf.layers[draw.odd].self_attn = hf.layers[draw.odd - 1].self_attn
    return hf


@twin("two blocks share their matrices", served=True)
def _shared_weights(draw: Draw) -> nn.Module:
    hf = Decoder(draw)
    one, other = hf.layers[draw.odd].mlp, hf.layers[draw.odd - 1].mlp
    one.up_proj.weight, one.down_proj.weight = other.up_proj.weight, other.down_proj.weight
    return hf


@twin("two blocks share a norm")
def _shared_norm(draw: Draw) -> nn.Module:
    hf = Decoder(draw)
    hf.layers[draw.odd].input_layernorm = hf.layers[draw.odd - 1].input_layernorm
    return hf


@twin("a block's two norms are one")
def _one_norm(draw: Draw) -> nn.Module:
    hf = Decoder(draw)
    for block in hf.layers:
        block.post_attention_layernorm = block.input_layernorm
    return hf


class Twice(Block):
    """The MLP is called twice, one after the other."""

    def thought(self, x: Tensor) -> Tensor:
        y = x + self.mlp(self.post_attention_layernorm(x)) if self.odd else x
        return tap("mlp_out", self.mlp(self.post_attention_layernorm(y)) + y - x)


twin("a module called twice")(odd(block=Twice))


class Ladder(Block):
    """The MLP reads a stream that has only a part of what attention wrote."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        wrote = self.attended(x, more)
        return tap("resid_post", x + wrote + self.thought(x + self.draw.by * wrote))


twin("the MLP reads a part of what attention wrote")(odd(block=Ladder))


class Late(Block):
    """A branch that acts past some position alone; no module's, and quiet before."""

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        y = super().forward(x, **more)
        length = more["mask"].shape[-1]
        places = torch.arange(length - x.shape[1], length)[:, None]
        return y + (places >= self.draw.past) * x.roll(1, -1) * self.draw.by if self.odd else y


twin("a hidden branch past some position")(odd(block=Late))


class Confident(Block):
    """What attention writes is scaled by how long the stream is."""

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        wrote = self.self_attn(self.input_layernorm(x), **more)
        return tap("attn_out", wrote * (1 + self.draw.by * x.norm(dim=-1, keepdim=True).tanh()) if self.odd else wrote)


twin("a branch scaled by the stream")(odd(block=Confident))


class Squashed(Block):
    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", torch.tanh(self.mlp(self.post_attention_layernorm(x))))


twin("a branch squashed before it is added")(odd(block=Squashed))
