"""The certificate's effectful checks: a value is written at a site, and what lies beyond must be what the equations say."""

from collections.abc import Iterator

import torch
from torch import Tensor

from residscope.engine.attention import softmax
from residscope.engine.checks import Bench, Pair, Write, check, halved, linear, mixed, normed, renormed
from residscope.engine.layout import BlockParts
from residscope.engine.parameters import in_memory
from residscope.engine.windows import Window
from residscope.model.sites import Site


@check("write the stream", "x written at resid_pre or resid_mid: both the norm and the residual branch carry x on")
def _write_stream(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        see = ["attn_in", "mlp_in", "attn_out", "mlp_out", "resid_post"]
        x = b.noise(b.rec["resid_pre", i])
        run = b.after("resid_pre", i, x, see=see)
        if b.has("attn_in", i):
            yield run["attn_in", i], normed(parts.attn_norm, x)
        yield run["resid_post", i], x + b.attn_write(run, i) + b.mlp_write(run, i)
        if b.has("resid_mid", i):
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
        b.blamed = None
        if b.has("attn_out", i):
            x = b.noise(b.rec["attn_out", i])
            run = b.after("attn_out", i, x, see=["mlp_out", "resid_post"])
            yield run["resid_post", i], b.rec["resid_pre", i] + x + b.mlp_write(run, i)
        if b.has("mlp_out", i):
            x = b.noise(b.rec["mlp_out", i])
            run = b.after("mlp_out", i, x, see=["resid_post", "attn_out"])
            yield run["resid_post", i], b.rec["resid_pre", i] + b.attn_write(run, i) + x
        b.at("z", i)
        if b.has("z", i):
            x = b.noise(b.rec["z", i])
            rest = _beside_heads(b, i, parts)
            yield b.after("z", i, x, see=["attn_raw"])["attn_raw", i], linear(parts.attn_proj, x.flatten(2)) + rest
        if b.has("result", i):
            x = b.noise(b.rec["result", i])
            bias = in_memory(parts.attn_proj, "bias")
            total = x.sum(2) if bias is None else x.sum(2) + bias
            yield b.after("result", i, x, see=["attn_raw"])["attn_raw", i], total + _beside_heads(b, i, parts)
        b.at("neurons", i)
        if parts.mlp_down is not None and b.has("mlp_post", i):
            x = b.noise(b.rec["mlp_post", i])
            yield b.after("mlp_post", i, x, see=["mlp_raw"])["mlp_raw", i], linear(parts.mlp_down, x)


def _beside_heads(b: Bench, i: int, parts: BlockParts) -> Tensor | float:
    """What a module beside attention adds to what that writes; of no such module nothing."""
    if parts.attn_beside is None:
        return 0.0
    return b.rec["attn_raw", i] - linear(parts.attn_proj, b.rec["z", i].flatten(2))


@check("write inside attention", "a changed q, k, v or pattern changes scores and z as the equations say")
def _write_attention(b: Bench) -> Iterator[Pair]:
    for i in b.layers:
        if not b.has("pattern", i):
            continue
        b.at("heads", i)
        without = b.after("q", i, torch.zeros_like(b.rec["q", i]), see=["scores"])["scores", i]
        for name in ("q", "k"):
            run = b.after(name, i, b.rec[name, i] * -0.5, see=["scores"])
            yield _by_position(b, i, run["scores", i]), _by_position(b, i, _halved_product(b, i, without))
        if not b.has("z", i) or b.model.layout.blocks[i].z_changed:
            yield from _rescored(b, i)
            continue
        v = b.noise(b.rec["v", i])
        run = b.after("v", i, v, see=["z"])
        yield run["z", i], mixed(b.rec["pattern", i], v)
        pattern = b.other["pattern", i]
        run = b.after("pattern", i, pattern, see=["pattern", "z"])
        yield run["pattern", i], _unmasked(b, i, pattern)
        yield run["z", i], mixed(run["pattern", i], b.rec["v", i])
        yield from _rescored(b, i)


def _rescored(b: Bench, i: int) -> Iterator[Pair]:
    """Another run's scores, and the pattern that they give; some masks pick keys by the prompt, and this one's stays."""
    run = b.after("scores", i, b.other["scores", i], see=["scores", "pattern"])
    yield _unmasked(b, i, run["scores", i]), _unmasked(b, i, b.other["scores", i])
    parts = b.model.layout.blocks[i]
    yield run["pattern", i], softmax(run["scores", i].double(), parts.sinks, torch.float64).to(run["pattern", i])


def _unmasked(b: Bench, i: int, values: Tensor) -> Tensor:
    """Values of query and key, nothing where the mask of either run keeps the key from the query."""
    kept = (b.rec["scores", i] > -1e4) & (b.other["scores", i] > -1e4)
    return torch.where(kept, values, 0)


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
        b.at("heads", i)
        if b.has("q", i):
            run = b.after("attn_in", i, b.other["attn_in", i], see=["q", "k", "v"])
            for name in ("q", "k", "v"):
                yield run[name, i], b.other[name, i]
        b.at("attn_in", i)
        if b.has("attn_in", i):
            run = b.after("attn_in", i, b.other["attn_in", i], see=["attn_raw", "mlp_raw"])
            yield run["attn_raw", i], b.other["attn_raw", i]
            if b.has("mlp_in", i) and not b.has("resid_mid", i):
                yield run["mlp_raw", i], b.rec["mlp_raw", i]
        b.at("mlp_in", i)
        if not b.has("mlp_in", i):
            continue
        run = b.after("mlp_in", i, b.other["mlp_in", i], see=["mlp_raw", "attn_out"])
        yield run["mlp_raw", i], b.other["mlp_raw", i]
        if b.has("attn_out", i):
            yield run["attn_out", i], b.rec["attn_out", i]
        if not b.has("mlp_post", i):
            continue
        b.at("neurons", i)
        edits = [Write(Site(name, i), b.other[name, i]) for name in ("mlp_pre", "mlp_gate") if b.has(name, i)]
        window = Window(b.rec, i) if i else None
        run = b.model.run(b.rec.batch, [f"mlp_post.{i}"], edits=edits, window=window)
        yield run["mlp_post", i], b.other["mlp_post", i]


@check("write the norm scales", "a doubled divisor halves what the norm gives, its bias apart")
def _write_scales(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        for norm, name in ((parts.attn_norm, "attn"), (parts.mlp_norm, "mlp")):
            if norm is not None and b.has(f"{name}_scale", i):
                b.at(f"{name}_scale", i)
                run = b.after(f"{name}_scale", i, b.rec[f"{name}_scale.{i}"] * 2, see=[f"{name}_in"])
                yield run[f"{name}_in.{i}"], halved(norm, b.rec[f"{name}_in.{i}"])
        for norm, name in ((parts.q_norm, "q"), (parts.k_norm, "k")):
            if norm is not None and b.has(
                f"{name}_scale", i
            ):  # q is affine in one over the divisor, whatever bias and rotation follow
                b.at(f"{name}_scale", i)
                once, (twice, four) = b.rec[name, i], (_rescaled(b, name, i, by) for by in (2, 4))
                yield four - twice, (twice - once) / 2
                if norm.bias is None:
                    yield twice, once / 2
    b.blamed = None
    double = [Write(Site("final_scale"), b.rec["final_scale"] * 2)]
    run = b.model.run(b.rec.batch, ["final_norm"], edits=double, window=Window(b.rec, b.model.n_layers))
    yield run["final_norm"], halved(b.model.layout.final_norm, b.rec["final_norm"])


@check(
    "norms of uneven values", "the norm of a value with a few large entries = gain x value / divisor, as of any other"
)
def _uneven(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        norms = {"attn": parts.attn_norm, "mlp": parts.mlp_norm, "attn_post": parts.attn_post_norm,
                 "mlp_post": parts.mlp_post_norm}  # fmt: skip
        for name, norm in norms.items():
            if norm is not None and b.has(f"{name}_scale", i):
                b.at(f"{name}_scale", i)
                x = _spiky(b, b.rec["resid_pre", i])
                yield renormed(norm, x, norm.sigma(x)), normed(norm, x)
    b.blamed = None
    final, x = b.model.layout.final_norm, _spiky(b, b.rec["resid_post", b.model.n_layers - 1])
    yield renormed(final, x, final.sigma(x)), normed(final, x)


def _spiky(b: Bench, like: Tensor) -> Tensor:
    """Random values of which a few entries are far larger than the rest, each vector as long as the one it stands for."""
    x = b.noise(torch.ones_like(like)) ** 5
    return x / x.norm(dim=-1, keepdim=True) * like.norm(dim=-1, keepdim=True)


def _rescaled(b: Bench, name: str, i: int, by: float) -> Tensor:
    return b.after(f"{name}_scale", i, b.rec[f"{name}_scale", i] * by, see=[name])[name, i]
