"""A block as a data flow: what each of its sites is made from, and by which equation, as this very model computes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose
from typing import Any

from torch import nn

from residscope.engine.layout import BlockParts, Layout, Norm
from residscope.engine.parameters import in_memory
from residscope.model.sites import KINDS

EXPERTS = "experts"


@dataclass(frozen=True)
class Step:
    """One place of a block, and what it is computed from.

    place: a site, or `experts.7`, which no site shows. reads: the places it is made from. equation: of the names in `reads`,
    weights (W, b: the projection's; g, b: the norm's), h the head and x where a branch reads one thing. same: the site
    that is the same tensor, which then stands for it.
    """

    place: str
    reads: tuple[str, ...]
    equation: str
    same: str | None = None

    @property
    def hidden(self) -> bool:
        """Whether it is a part that no site shows."""
        return self.place.startswith(EXPERTS)


def flow(layout: Layout, layer: int) -> tuple[Step, ...]:
    """The steps of one block in the order of the forward pass: every site of the layer once; at layer 0 the embedding's too."""
    return tuple(_Block(layout, layer).steps())


class _Block:
    def __init__(self, layout: Layout, layer: int) -> None:
        self.layout, self.layer = layout, layer
        self.parts: BlockParts = layout.blocks[layer]
        self.family, self.table, self.heads = layout.family, layout.table, layout.sizes.at(layer)
        self.positions = layout.family.block_of(layer).positions or layout.family.positions
        self.parallel = self.has("mlp_out") and not self.has("resid_mid")

    def has(self, name: str) -> bool:
        return self.table.has(name, self.layer if name in KINDS and KINDS[name].layered else None)

    def step(self, name: str, reads: str, equation: str, same: str | None = None) -> Step:
        return Step(self.named(name), tuple(map(self.named, reads.split())), equation, same and self.named(same))

    def named(self, name: str) -> str:
        if name == "below":
            return f"resid_post.{self.layer - 1}"
        return f"{name}.{self.layer}" if name == EXPERTS or KINDS[name].layered else name

    def steps(self) -> Iterator[Step]:
        if self.layer:
            yield self.step("resid_pre", "below", f"resid_post.{self.layer - 1}")
        else:
            added = [name for name in ("embed", "pos_embed") if self.has(name)]
            yield from (self.step(name, "", KINDS[name].about.split(",")[0]) for name in added)
            yield self.step("resid_pre", " ".join(added), " + ".join(added))
        if self.has("attn_out"):
            yield from self.normed("attn", self.parts.attn_norm, "resid_pre")
            yield from self.attention() if self.has("scores") else self.mixer()
        if self.has("resid_mid"):
            yield self.step("resid_mid", "resid_pre attn_out", "resid_pre + attn_out")
        if self.has("mlp_out"):
            yield from self.mlp()
        yield self.end()

    def normed(self, branch: str, norm: Norm | None, stream: str) -> Iterator[Step]:
        """The norm before a branch."""
        scale, out = f"{branch}_scale", f"{branch}_in"
        if norm is not None:
            yield self.step(scale, stream, divisor(norm))
            yield self.step(out, f"{stream} {scale}", normed(norm, "x", scale))
        elif branch == "mlp" and self.parallel and self.parts.attn_norm is not None:
            yield self.step(out, "attn_in", "attn_in")
        else:
            yield self.step(out, stream, stream)

    def attention(self) -> Iterator[Step]:
        parts, family = self.parts, self.family
        x = "(x + position)" if self.positions == "beside" else "x"
        bias = " + b" if any(map(biased, self.projections())) else ""
        turned = self.positions == "rotary" and getattr(parts.attn, family.rotary_switch or "", True)
        for name, weight, norm in (("q", "W_Q", parts.q_norm), ("k", "W_K", parts.k_norm)):
            value, reads = f"{x} {weight}{bias}", "attn_in"
            if norm is not None:
                yield self.step(f"{name}_scale", "attn_in", f"{divisor(norm)} of {value}")
                of = f"({value})" if bias or norm.kind == "layer" else value
                value, reads = normed(norm, of, f"{name}_scale"), f"attn_in {name}_scale"
            elif name == "q" and family.query_scale:
                value = times(f"({value})" if bias else value, getattr(parts.attn, family.query_scale), self.heads.d_qk)
            yield self.step(name, reads, f"rotate({value})" if turned else value)
        yield self.step("v", "attn_in", f"x W_V{bias}")
        group = self.heads.groups
        shared = "" if group == 1 else "[0]" if self.heads.n_kv_heads == 1 else f"[h//{group}]"
        yield self.step("scores", "q k", self.scored(f"q·k{shared}"))
        sinks = parts.sinks is not None
        yield self.step("pattern", "scores", "exp s / (Σ exp s + exp sink)" if sinks else "softmax(scores)")
        yield self.step("z", "pattern v", f"pattern v{shared}")
        yield from self.by_heads()

    def by_heads(self) -> Iterator[Step]:
        """What the heads write, and attention's output as their sum."""
        parts, summed, reads = self.parts, "z W_O", "z"
        if self.has("result"):
            yield self.step("result", "z", "z W_O")
            summed, reads = "Σ_h result", "result"
        yield from self.written(
            "attn", reads, summed + (" + b" if biased(parts.attn_proj) else ""), parts.attn_post_norm
        )

    def mixer(self) -> Iterator[Step]:
        """What stands in attention's place: a state space, a convolution, attention of which nothing, or z alone, is seen."""
        name = type(self.parts.attn).__name__
        if self.has("z"):
            yield self.step("z", "attn_in", f"{name}(attn_in), before W_O")
            yield from self.by_heads()
            return
        yield from self.written("attn", "attn_in", f"{name}(attn_in)", self.parts.attn_post_norm)

    def projections(self) -> list[nn.Module]:
        """The modules that make queries, keys and values."""
        every = [] if self.parts.attn is None else [*self.parts.attn.modules()]
        inner = [module for module in every if module is not self.parts.attn_proj]
        return [module for module in inner if len(getattr(getattr(module, "weight", None), "shape", ())) == 2]

    def scored(self, product: str) -> str:
        found = times(product, scores_factor(self.layout, self.layer), self.heads.d_qk)
        cap = self.layout.factors.scores_cap
        found = found if cap is None else f"{cap:g} tanh({found} / {cap:g})"
        return f"{found}{' + slope · key' if self.positions == 'slopes' else ''} + mask"

    def written(self, branch: str, reads: str, made: str, post: Norm | None) -> Iterator[Step]:
        """What a branch's module gives, and what of it the stream gets."""
        raw, out, scale = f"{branch}_raw", f"{branch}_out", f"{branch}_post_scale"
        factor = self.layout.factors.residual
        if raw in self.table.aliases:
            yield self.step(raw, reads, made, same=out)
            yield self.step(out, reads, made)
            return
        yield self.step(raw, reads, made)
        value, reads = raw, raw
        if post is not None:
            yield self.step(scale, raw, divisor(post))
            value, reads = normed(post, raw, scale), f"{raw} {scale}"
        yield self.step(out, reads, value if factor == 1 else f"{factor:g} {value}")

    def mlp(self) -> Iterator[Step]:
        parts = self.parts
        yield from self.normed("mlp", parts.mlp_norm, "resid_pre" if self.parallel else "resid_mid")
        if not self.has("mlp_post") and not self.has("router"):
            yield from self.written(
                "mlp", "mlp_in", f"{type(self.parts.mlp).__name__}(mlp_in)", self.parts.mlp_post_norm
            )
            return
        if self.has("router"):
            yield self.step("router", "mlp_in", f"x W_router{' + b' if biased(parts.router) else ''}")
            yield self.step(EXPERTS, "mlp_in router", "the chosen experts, of x")
            yield from self.written("mlp", "router experts", "Σ_e weight_e expert_e(x)", parts.mlp_post_norm)
            return
        yield self.step("mlp_pre", "mlp_in", f"x W_in{' + b' if biased(parts.mlp_up) else ''}")
        act = self.activation()
        if self.has("mlp_gate"):
            yield self.step("mlp_gate", "mlp_in", f"x W_gate{' + b' if biased(parts.mlp_gate) else ''}")
            yield self.step("mlp_post", "mlp_pre mlp_gate", f"{act}(mlp_gate) ∘ mlp_pre")
        else:
            made = f"{act.removesuffix('_ln')}(mlp_pre)"
            yield self.step("mlp_post", "mlp_pre", f"norm({made})" if act.endswith("_ln") else made)
        made = f"mlp_post W_out{' + b' if biased(parts.mlp_down) else ''}"
        yield from self.written("mlp", "mlp_post", made, parts.mlp_post_norm)

    def activation(self) -> str:
        """What the nonlinearity is called: where the configuration says it, or in the family's file."""
        return str(getattr(self.layout.hf.config, self.family.activation, None) or self.family.activation)

    def end(self) -> Step:
        if not self.has("mlp_out"):
            return self.step("resid_post", "resid_pre attn_out", "resid_pre + attn_out")
        if not self.has("attn_out"):
            return self.step("resid_post", "resid_pre mlp_out", "resid_pre + mlp_out")
        if self.parallel:
            return self.step("resid_post", "resid_pre attn_out mlp_out", "resid_pre + attn_out + mlp_out")
        return self.step("resid_post", "resid_mid mlp_out", "resid_mid + mlp_out")


def scores_factor(layout: Layout, layer: int) -> float:
    """What a layer's products of queries and keys are multiplied by, before any cap."""
    scale = layout.family.scores_scale
    return scale if isinstance(scale, float) else _read(layout.blocks[layer].attn, scale)


def divisor(norm: Norm) -> str:
    return "√(var x + ε)" if norm.kind == "layer" else "√(mean x² + ε)"


def normed(norm: Norm, x: str, scale: str) -> str:
    over = f"({x} − mean) / {scale} · g" if norm.kind == "layer" else f"{x} / {scale} · g"
    return over if norm.bias is None else f"{over} + b"


def biased(module: Any) -> bool:
    return module is not None and in_memory(module, "bias") is not None


def times(product: str, factor: float, d_head: int) -> str:
    """A product times a constant, as a paper writes it: `q·k / √64`."""
    if factor == 1:
        return product
    if isclose(factor, d_head**-0.5, rel_tol=1e-6):
        return f"{product} / √{d_head}"
    if isclose(1 / factor, round(1 / factor), rel_tol=1e-6):
        return f"{product} / {round(1 / factor)}"
    square = factor**-2
    return (
        f"{product} / √{round(square)}" if isclose(square, round(square), rel_tol=1e-6) else f"{factor:.4g} {product}"
    )


def _read(module: Any, name: str) -> float:
    value = float(getattr(module, name.removeprefix("1/")))
    return 1 / value if name.startswith("1/") else value
