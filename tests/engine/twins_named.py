"""Twins that are odd by their names or their packing alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from twins import MLP, Attention, Block, Decoder, Draw, Norm, Parts, odd, tap, tap_end, twin


@twin("nothing odd", served=True)
def _plain(draw: Draw) -> nn.Module:
    return Decoder(draw)


class Swapped(Block):
    """Attention is called mlp, and the MLP self_attn; so are the norms."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.self_attn, self.mlp = self.mlp, self.self_attn
        self.input_layernorm, self.post_attention_layernorm = self.post_attention_layernorm, self.input_layernorm

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.mlp(self.post_attention_layernorm(x), **more))

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.self_attn(self.input_layernorm(x)))


twin("a swapped branch", served=True)(odd(block=Swapped))


class Fused(Attention):
    """One matrix for queries, keys and values, packed head by head and the other way round."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        del self.q_proj, self.k_proj, self.v_proj
        self.qkv_proj = nn.Linear(draw.d_model, 3 * draw.heads * draw.d_head, bias=draw.biased)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, k, q = self.qkv_proj(x).view(*x.shape[:2], self.draw.heads, 3, -1).transpose(1, 2).unbind(3)
        return q, k, v


@twin("rows packed in another order", served=True)
def _fused(draw: Draw) -> nn.Module:
    draw.kv_heads = draw.heads
    return Decoder(draw, Parts(attention=Fused))


class Exchanged(MLP):
    """The nonlinearity acts on what is called up."""

    def neurons(self, x: Tensor) -> Tensor:
        gate = tap("mlp_gate", self.up_proj(x))
        return functional.silu(gate) * tap("mlp_pre", self.gate_proj(x))


twin("gate and up exchanged", served=True, gated=True)(odd(mlp=Exchanged))


class Halves(MLP):
    """One matrix for gate and up, the second half the gate."""

    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.gate_proj = None
        self.up_proj = nn.Linear(draw.d_model, 2 * draw.d_mlp, bias=draw.biased)

    def neurons(self, x: Tensor) -> Tensor:
        up, gate = self.up_proj(x).chunk(2, -1)
        return functional.silu(tap("mlp_gate", gate)) * tap("mlp_pre", up)


twin("halves the other way round", served=True, lacks="mlp_pre mlp_gate mlp_post", gated=True)(odd(mlp=Halves))


class Turned(nn.Linear):
    """A linear layer by its class, with its matrix the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        out = x @ self.weight
        return out if self.bias is None else out + self.bias


class TurnedOut(Attention):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.o_proj = Turned(draw.d_model, draw.d_model, bias=draw.biased)


twin("an output matrix the other way round", served=True, lacks="z result")(odd(attention=TurnedOut))


class TurnedDown(MLP):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__(draw, layer)
        self.down_proj = Turned(draw.d_model, draw.d_mlp, bias=False)


twin("neurons' matrix the other way round", served=True, lacks="mlp_pre mlp_gate mlp_post")(odd(mlp=TurnedDown))


class InPlace(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        if self.draw.parallel:
            write = self.attended(x, more)
            write += self.thought(x)
            return tap("resid_post", x + write)
        write = self.attended(x, more)
        write += x
        x = tap("resid_mid", write)
        write = self.thought(x)
        write += x
        return tap("resid_post", write)


twin("an addition in place")(odd(block=InPlace))


class StreamInPlace(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x).clone()
        x += self.attended(x, more)
        x = tap("resid_mid", x)
        x += self.thought(x)
        return tap("resid_post", x)


twin("the stream itself added to in place", parallel=False)(odd(block=StreamInPlace))


class TrulyInPlace(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        x += self.attended(x, more)
        x = tap("resid_mid", x)
        x += self.thought(x)
        return tap("resid_post", x)


twin("the block's own input added to in place", parallel=False)(odd(block=TrulyInPlace))


class OtherEps(Norm):
    """Another eps than its attribute says."""

    def sigma(self, core: Tensor) -> Tensor:
        return (core.pow(2).mean(-1, keepdim=True) + 100 * self.eps * (1 + abs(self.draw.by))).sqrt()


twin("a norm with another eps than it says")(odd(norm=OtherEps))


class EpsOutside(Norm):
    def sigma(self, core: Tensor) -> Tensor:
        return core.pow(2).mean(-1, keepdim=True).sqrt() + 1e-3


twin("eps beside the root")(odd(norm=EpsOutside))


class Scaled(Decoder):
    """Tied weights, of which the embedding is scaled."""

    def start(self, ids: Tensor, first: int) -> Tensor:
        x = tap_end("embed", self.embed_tokens(ids) * (1 + self.draw.by))
        if self.embed_positions is None:
            return x
        places = torch.arange(first, first + ids.shape[1]).unsqueeze(0)
        return x + tap_end("pos_embed", self.embed_positions(places).expand(len(ids), -1, -1))


twin("tied weights, one scaled", served=True, tied=True)(Scaled)


class ScaledEnd(Decoder):
    def end(self, x: Tensor) -> Tensor:
        return super().end(x) * (1 + self.draw.by)


twin("logits scaled", served=True)(ScaledEnd)


class Everywhere(Block):
    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.self_attn(self.input_layernorm(x), **more) * (1 + self.draw.by))

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.mlp(self.post_attention_layernorm(x)) * (1 + self.draw.by))


twin("a scale on every branch", served=True)(odd(block=Everywhere))


class PostNormed(Block):
    """The norms stand after the branches."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        self.input_layernorm.role, self.post_attention_layernorm.role = "attn_post_scale", "mlp_post_scale"

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.input_layernorm(self.self_attn(x, **more)))

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.post_attention_layernorm(self.mlp(x)))


twin("norms moved behind the branches", served=True, lacks="attn_scale mlp_scale")(odd(block=PostNormed))


class OneParallel(Block):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        if not self.odd:
            return super().forward(x, **more)
        x = tap("resid_pre", x)
        return tap("resid_post", x + self.attended(x, more) + self.thought(x))


twin("one layer parallel among others", served=True, lacks="resid_mid", parallel=False)(odd(block=OneParallel))


class OneWithout(Block):
    """One layer without its MLP."""

    def __init__(self, draw: Draw, layer: int, parts: Parts) -> None:
        super().__init__(draw, layer, parts)
        if self.odd:
            self.mlp = self.post_attention_layernorm = None

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        if not self.odd:
            return super().forward(x, **more)
        x = tap("resid_pre", x)
        return tap("resid_post", x + self.attended(x, more))


twin(
    "one layer without an MLP",
    served=True,
    lacks="mlp_scale mlp_in mlp_pre mlp_gate mlp_post mlp_raw mlp_out resid_mid",
    parallel=False,
)(odd(block=OneWithout))
