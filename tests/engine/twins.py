"""Twins: small decoders of our own that look like others and differ in one small way.

Each tells by itself what stands where: its forward hands every value that has a name to `tap`, which keeps it, or puts
another in its place. That is the reference for what a model serves, and shares nothing with the code that serves it.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

VOCAB, CONTEXT = 89, 96
_open: list["Notes"] = []
_layer = [0]


@dataclass
class Notes:
    """What a forward's taps saw, by site; `put` stands in for what would have been there."""

    put: Mapping[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: str, x: Tensor) -> Tensor:
        if site in self.put:
            x = self.put[site].to(x)
        self.seen[site] = x.detach().clone()
        return x


@contextmanager
def noting(put: Mapping[str, Tensor] | None = None) -> Iterator[Notes]:
    _open.append(Notes(put or {}))
    try:
        yield _open[-1]
    finally:
        _open.pop()


def at_layer(layer: int) -> None:
    """Say which block is under way."""
    _layer[0] = layer


def tap(name: str, x: Tensor) -> Tensor:
    """A value of the block under way, at its site."""
    return _open[-1](f"{name}.{_layer[0]}", x) if _open else x


def tap_end(name: str, x: Tensor) -> Tensor:
    """A value of the whole model."""
    return _open[-1](name, x) if _open else x


def by_position(name: str, x: Tensor) -> Tensor:
    return tap(name, x.transpose(1, 2)).transpose(1, 2)


@dataclass
class Draw:
    """What is drawn of one twin: sizes, how it is built, the layer that is odd, and by how much."""

    layers: int
    heads: int
    kv_heads: int
    d_head: int
    d_mlp: int
    rms: bool
    rotary: bool
    gated: bool
    interface: bool
    tied: bool
    parallel: bool
    biased: bool
    odd: int
    by: float
    past: int
    seed: int

    @property
    def d_model(self) -> int:
        return self.heads * self.d_head


def draw(rng: random.Random, **fixed: Any) -> Draw:
    interface = rng.random() < 0.6
    heads, layers = fixed.get("heads", rng.choice([2, 4])), rng.choice([2, 3])
    drawn = {
        "layers": layers,
        "heads": heads,
        "kv_heads": rng.choice([heads, heads // 2]) if fixed.get("interface", interface) else heads,
        "d_head": rng.choice([6, 8]),
        "d_mlp": rng.choice([20, 28]),
        "rms": rng.random() < 0.5,
        "rotary": rng.random() < 0.5,
        "gated": rng.random() < 0.5,
        "interface": interface,
        "tied": rng.random() < 0.4,
        "parallel": rng.random() < 0.2,
        "biased": rng.random() < 0.4,
        "odd": rng.randrange(layers),
        "by": rng.choice([-1, 1]) * rng.uniform(0.1, 0.5),
        "past": rng.randrange(1, 30),
        "seed": rng.randrange(2**31),
    }
    return Draw(**(drawn | fixed))


class Config(PretrainedConfig):
    model_type = "twin"


class Norm(nn.Module):
    def __init__(self, draw: Draw, role: str, layer: int | None = None) -> None:
        super().__init__()
        self.draw, self.role, self.layer, self.eps = draw, role, layer, 1e-5
        self.weight = nn.Parameter(torch.ones(draw.d_model))
        self.bias = None if draw.rms else nn.Parameter(torch.zeros(draw.d_model))

    @property
    def odd(self) -> bool:
        return self.layer == self.draw.odd

    def core(self, x: Tensor) -> Tensor:
        return x if self.draw.rms else x - x.mean(-1, keepdim=True)

    def sigma(self, core: Tensor) -> Tensor:
        return (core.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        core = self.core(x)
        sigma = (tap_end if self.role == "final_scale" else tap)(self.role, self.sigma(core))
        out = core / sigma * self.weight
        return out if self.bias is None else out + self.bias


def eager_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = tap("scores", torch.matmul(query, key.transpose(2, 3)) * scaling + attention_mask)
    pattern = tap("pattern", scores.softmax(-1))
    return torch.matmul(pattern, value).transpose(1, 2).contiguous(), pattern


class Attention(nn.Module):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__()
        self.draw, self.layer, self.config = draw, layer, Config()
        self.scaling = draw.d_head**-0.5
        d, bias = draw.d_model, draw.biased
        self.q_proj = nn.Linear(d, draw.heads * draw.d_head, bias=bias)
        self.k_proj = nn.Linear(d, draw.kv_heads * draw.d_head, bias=bias)
        self.v_proj = nn.Linear(d, draw.kv_heads * draw.d_head, bias=bias)
        self.o_proj = nn.Linear(draw.heads * draw.d_head, d, bias=bias)

    @property
    def odd(self) -> bool:
        return self.layer == self.draw.odd

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.draw.d_head).transpose(1, 2)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        run = eager_attention_forward
        if self.draw.interface:
            run = AttentionInterface().get_interface(self.config._attn_implementation, run)
        return run(self, q, k, v, mask, scaling=self.scaling)[0]

    def out(self, z: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(tap("z", z).flatten(2))

    def forward(self, x: Tensor, mask: Any = None, cache: Any = None, turn: Any = None) -> Tensor:
        x = tap("attn_in", x)
        q, k, v = self.qkv(x)
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)
        q, k, v = (by_position(name, y) for name, y in zip("qkv", (q, k, v), strict=True))
        if cache is not None:
            k, v = cache.update(k, v, _layer[0])
        return tap("attn_raw", self.out(self.mix(q, k, v, mask), x))


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    one, other = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-other, one], -1) * turn[1]


class MLP(nn.Module):
    def __init__(self, draw: Draw, layer: int) -> None:
        super().__init__()
        self.draw, self.layer = draw, layer
        d, bias = draw.d_model, draw.biased
        self.up_proj = nn.Linear(d, draw.d_mlp, bias=bias)
        self.gate_proj = nn.Linear(d, draw.d_mlp, bias=bias) if draw.gated else None
        self.down_proj = nn.Linear(draw.d_mlp, d, bias=bias)

    @property
    def odd(self) -> bool:
        return self.layer == self.draw.odd

    def neurons(self, x: Tensor) -> Tensor:
        up = tap("mlp_pre", self.up_proj(x))
        if self.gate_proj is None:
            return functional.gelu(up)
        return functional.silu(tap("mlp_gate", self.gate_proj(x))) * up

    def forward(self, x: Tensor) -> Tensor:
        x = tap("mlp_in", x)
        return tap("mlp_raw", self.down_proj(tap("mlp_post", self.neurons(x))))


class Block(nn.Module):
    def __init__(self, draw: Draw, layer: int, parts: "Parts") -> None:
        super().__init__()
        self.draw, self.layer = draw, layer
        self.input_layernorm = parts.norm(draw, "attn_scale", layer)
        self.self_attn = parts.attention(draw, layer)
        self.post_attention_layernorm = parts.norm(draw, "mlp_scale", layer)
        self.mlp = parts.mlp(draw, layer)

    @property
    def odd(self) -> bool:
        return self.layer == self.draw.odd

    def attended(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return tap("attn_out", self.self_attn(self.input_layernorm(x), **more))

    def thought(self, x: Tensor) -> Tensor:
        return tap("mlp_out", self.mlp(self.post_attention_layernorm(x)))

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        x = tap("resid_pre", x)
        if self.draw.parallel:
            return tap("resid_post", x + self.attended(x, more) + self.thought(x))
        x = tap("resid_mid", x + self.attended(x, more))
        return tap("resid_post", x + self.thought(x))


@dataclass(frozen=True)
class Parts:
    norm: Callable[..., nn.Module] = Norm
    attention: Callable[..., nn.Module] = Attention
    mlp: Callable[..., nn.Module] = MLP
    block: Callable[..., nn.Module] = Block


class Decoder(nn.Module):
    """The model: embedding, blocks, final norm, unembedding; a cache of transformers' is filled and read."""

    def __init__(self, draw: Draw, parts: Parts = Parts()) -> None:
        super().__init__()
        self.draw = draw
        self.config = Config(
            vocab_size=VOCAB, hidden_size=draw.d_model, num_hidden_layers=draw.layers, intermediate_size=draw.d_mlp,
            num_attention_heads=draw.heads, num_key_value_heads=draw.kv_heads, max_position_embeddings=CONTEXT,
            tie_word_embeddings=draw.tied,
        )  # fmt: skip
        self.config._attn_implementation = "eager"
        self.embed_tokens = nn.Embedding(VOCAB, draw.d_model)
        self.embed_positions = None if draw.rotary else nn.Embedding(CONTEXT, draw.d_model)
        self.layers = nn.ModuleList([parts.block(draw, i, parts) for i in range(draw.layers)])
        self.norm = parts.norm(draw, "final_scale")
        self.lm_head = nn.Linear(draw.d_model, VOCAB, bias=False)
        if draw.tied:
            self.lm_head.weight = self.embed_tokens.weight
        for module in self.modules():
            if isinstance(module, Attention):
                module.config = self.config

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def start(self, ids: Tensor, first: int) -> Tensor:
        x = tap_end("embed", self.embed_tokens(ids))
        if self.embed_positions is None:
            return x
        places = torch.arange(first, first + ids.shape[1]).unsqueeze(0)
        return x + tap_end("pos_embed", self.embed_positions(places).expand(len(ids), -1, -1))

    def through(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        for i, block in enumerate(self.layers):
            at_layer(i)
            x = block(x, **more)
        return x

    def end(self, x: Tensor) -> Tensor:
        return self.lm_head(tap_end("final_norm", self.norm(x)))

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool | None = None) -> CausalLMOutput:
        first = 0 if past_key_values is None else past_key_values.get_seq_length()
        x = self.start(input_ids, first)
        rows, length = input_ids.shape
        query, key = torch.arange(first, first + length), torch.arange(first + length)
        mask = torch.zeros(length, first + length, dtype=x.dtype)
        mask = mask.masked_fill(key > query[:, None], torch.finfo(x.dtype).min).expand(rows, 1, -1, -1)
        turn = None
        if self.embed_positions is None:
            half = self.draw.d_head // 2
            angle = query[:, None] * 100.0 ** -(torch.arange(half) / half)
            angle = torch.cat([angle, angle], -1).to(x.dtype)
            turn = angle.cos(), angle.sin()
        x = self.through(x, {"mask": mask, "cache": past_key_values, "turn": turn})
        return CausalLMOutput(logits=tap_end("logits", self.end(x)))


def settled(hf: nn.Module, draw: Draw) -> Any:
    """Weights drawn so that nothing is one, zero or small by chance, in float64."""
    generator = torch.Generator().manual_seed(draw.seed)
    with torch.no_grad():
        for weight in hf.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(noise * 0.2)
            else:
                weight.copy_(noise * (weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2))
        hf.embed_tokens.weight.copy_(torch.randn(hf.embed_tokens.weight.shape, generator=generator))
    return hf.double().eval()


@dataclass(frozen=True)
class Twin:
    """served: it is another only by its names or its packing, and so is to be served, but for what it `lacks` by layer."""

    build: Callable[[Draw], nn.Module]
    served: bool
    lacks: frozenset[str]
    fixed: dict[str, Any]

    def drawn(self, rng: random.Random) -> tuple[Draw, Any]:
        drawn = draw(rng, **self.fixed)
        with torch.random.fork_rng():
            torch.manual_seed(drawn.seed)
            return drawn, settled(self.build(drawn), drawn)


TWINS: dict[str, Twin] = {}


def twin(name: str, *, served: bool = False, lacks: str = "", **fixed: Any) -> Callable[[Any], Any]:
    """Keep what builds a twin; `fixed`: what of its draw is not left to chance."""

    def keep(build: Any) -> Any:
        known = TWINS.get(name)  # doctest imports the file a second time
        assert known is None or known.build.__qualname__ == build.__qualname__, name
        TWINS[name] = known or Twin(build, served, frozenset(lacks.split()), fixed)
        return build

    return keep


def odd(**parts: Any) -> Any:
    return lambda draw: Decoder(draw, Parts(**parts))


def vector(draw: Draw) -> nn.Parameter:
    return nn.Parameter(torch.ones(draw.d_model))
