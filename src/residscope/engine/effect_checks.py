"""The certificate's effectful checks: a value is written at a site, and what lies beyond must be what the equations say."""

from collections.abc import Iterator

import torch
from torch import Tensor

from residscope.engine.checks import Bench, Pair, Write, check, halved, linear, normed
from residscope.engine.parameters import in_memory
from residscope.engine.windows import Window
from residscope.model.sites import Site


@check("write the stream", "x written at resid_pre or resid_mid: both the norm and the residual branch carry x on")
def _write_stream(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        see = ["attn_in", "mlp_in", "attn_out", "mlp_out", "resid_post"]
        x = b.noise(b.rec["resid_pre", i])
        run = b.after("resid_pre", i, x, see=see)
        yield run["attn_in", i], normed(parts.attn_norm, x)
        yield run["resid_post", i], x + run["attn_out", i] + b.mlp_write(run, i)
        if b.has("resid_mid"):
            x = b.noise(b.rec["resid_mid", i])
            run = b.after("resid_mid", i, x, see=see)
            yield run["mlp_in", i], normed(parts.mlp_norm, x)
            yield run["resid_post", i], x + run["mlp_out", i]
            yield run["attn_out", i], b.rec["attn_out", i]


@check("write the ends", "x written at embed, resid_post of the last layer and final_norm arrives where it is read")
def _write_ends(b: Bench) -> Iterator[Pair]:
    x = b.noise(b.rec["embed"])
    run = b.model.run(b.rec.batch, ["resid_pre.0"], edits=[Write(Site("embed"), x)])
    yield run["resid_pre.0"], x + b.rec["pos_embed"] if b.has("pos_embed") else x
    last = Site("resid_post", b.model.n_layers - 1)
    x = b.noise(b.rec[last])
    run = b.model.run(b.rec.batch, ["logits"], edits=[Write(last, x)], window=Window(b.rec, b.model.n_layers - 1))
    yield run.logits, b.model.lens(x)
    del run  # logits are the largest tensors of a load
    x = b.noise(b.rec["final_norm"])
    run = b.model.run(
        b.rec.batch, ["logits"], edits=[Write(Site("final_norm"), x)], window=Window(b.rec, b.model.n_layers)
    )
    yield run.logits, _unembed(b, x)


def _unembed(b: Bench, x: Tensor) -> Tensor:
    with torch.no_grad():
        return b.model.layout.logits(x)


@check("write the outputs", "x written at attn_out, mlp_out, z, result or mlp_post is what the stream gets")
def _write_outputs(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        x = b.noise(b.rec["attn_out", i])
        run = b.after("attn_out", i, x, see=["mlp_out", "resid_post"])
        yield run["resid_post", i], b.rec["resid_pre", i] + x + b.mlp_write(run, i)
        if b.has("mlp_out"):
            x = b.noise(b.rec["mlp_out", i])
            run = b.after("mlp_out", i, x, see=["resid_post", "attn_out"])
            yield run["resid_post", i], b.rec["resid_pre", i] + run["attn_out", i] + x
        x = b.noise(b.rec["z", i])
        yield b.after("z", i, x, see=["attn_raw"])["attn_raw", i], linear(parts.attn_proj, x.flatten(2))
        if b.has("result"):
            x = b.noise(b.rec["result", i])
            bias = in_memory(parts.attn_proj, "bias")
            total = x.sum(2) if bias is None else x.sum(2) + bias
            yield b.after("result", i, x, see=["attn_raw"])["attn_raw", i], total
        if parts.mlp_down is None:
            continue
        x = b.noise(b.rec["mlp_post", i])
        yield b.after("mlp_post", i, x, see=["mlp_raw"])["mlp_raw", i], linear(parts.mlp_down, x)


@check("write inside attention", "a changed q, k, v or pattern changes scores and z as the equations say")
def _write_attention(b: Bench) -> Iterator[Pair]:
    groups = b.model.n_heads // b.model.n_kv_heads
    for i in b.layers:
        without = b.after("q", i, torch.zeros_like(b.rec["q", i]), see=["scores"])["scores", i]
        for name in ("q", "k"):
            run = b.after(name, i, b.rec[name, i] * -0.5, see=["scores"])
            yield _by_position(b, i, run["scores", i]), _by_position(b, i, _halved_product(b, i, without))
        v = b.noise(b.rec["v", i])
        run = b.after("v", i, v, see=["z"])
        yield run["z", i], torch.einsum("bhqk,bkhd->bqhd", b.rec["pattern", i], v.repeat_interleave(groups, 2))
        pattern = b.other["pattern", i]
        run = b.after("pattern", i, pattern, see=["z"])
        yield run["z", i], torch.einsum("bhqk,bkhd->bqhd", pattern, b.rec["v", i].repeat_interleave(groups, 2))
        run = b.after("scores", i, b.other["scores", i], see=["pattern"])
        yield run["pattern", i], pattern


def _halved_product(b: Bench, i: int, without: Tensor) -> Tensor:
    """The scores, had q k^T been -1/2 times what it is: cap(q k^T s) + bias, and `without` the bias alone."""
    cap, product = b.model.layout.factors.scores_cap, b.rec["scores", i] - without
    if cap is None:
        return product * -0.5 + without
    return torch.tanh(torch.atanh(product / cap) * -0.5) * cap + without


def _by_position(b: Bench, i: int, scores: Tensor) -> Tensor:
    """Scores by query, those that a mask keeps out of the pattern left out."""
    return torch.where(b.rec["scores", i] > -1e4, scores, 0).transpose(1, 2).flatten(2)


@check(
    "write the inputs",
    "another run's attn_in, mlp_in, mlp_pre give that run's q, k, v, mlp_raw; the other branch stays",
)
def _write_inputs(b: Bench) -> Iterator[Pair]:
    for i in b.layers:
        run = b.after("attn_in", i, b.other["attn_in", i], see=["q", "k", "v"])
        for name in ("q", "k", "v"):
            yield run[name, i], b.other[name, i]
        if not b.has("mlp_in"):
            continue
        if not b.has("resid_mid"):
            run = b.after("attn_in", i, b.other["attn_in", i], see=["mlp_raw"])
            yield run["mlp_raw", i], b.rec["mlp_raw", i]
        run = b.after("mlp_in", i, b.other["mlp_in", i], see=["mlp_raw", "attn_out"])
        yield run["mlp_raw", i], b.other["mlp_raw", i]
        yield run["attn_out", i], b.rec["attn_out", i]
        if not b.has("mlp_post"):
            continue
        edits = [Write(Site(name, i), b.other[name, i]) for name in ("mlp_pre", "mlp_gate") if b.has(name)]
        window = Window(b.rec, i) if i else None
        run = b.model.run(b.rec.batch, [f"mlp_post.{i}"], edits=edits, window=window)
        yield run["mlp_post", i], b.other["mlp_post", i]


@check("write the norm scales", "a doubled divisor halves what the norm gives, its bias apart")
def _write_scales(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        for norm, name in ((parts.attn_norm, "attn"), (parts.mlp_norm, "mlp")):
            if norm is not None:
                run = b.after(f"{name}_scale", i, b.rec[f"{name}_scale.{i}"] * 2, see=[f"{name}_in"])
                yield run[f"{name}_in.{i}"], halved(norm, b.rec[f"{name}_in.{i}"])
        for norm, name in ((parts.q_norm, "q"), (parts.k_norm, "k")):
            if norm is not None:  # q is affine in one over the divisor, whatever bias and rotation follow
                once, (twice, four) = b.rec[name, i], (_rescaled(b, name, i, by) for by in (2, 4))
                yield four - twice, (twice - once) / 2
                if norm.bias is None:
                    yield twice, once / 2
    double = [Write(Site("final_scale"), b.rec["final_scale"] * 2)]
    run = b.model.run(b.rec.batch, ["final_norm"], edits=double, window=Window(b.rec, b.model.n_layers))
    yield run["final_norm"], halved(b.model.layout.final_norm, b.rec["final_norm"])


def _rescaled(b: Bench, name: str, i: int, by: float) -> Tensor:
    return b.after(f"{name}_scale", i, b.rec[f"{name}_scale", i] * by, see=[name])[name, i]
