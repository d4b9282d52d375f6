"""The certificate's checks: what each compares, as errors per position.

An identity (`pattern @ v = z`) cannot see a hook on the wrong branch. So beside the identities stand *effectful* checks: a
random x is written at a site, and the sites beyond must be what the equations say, each computed by the stock modules.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from residscope.engine.attention import softmax
from residscope.engine.gradients import Same
from residscope.engine.hooks import trained_off
from residscope.engine.layout import BlockParts, Norm, placeholders, weight_in_out
from residscope.engine.parameters import in_memory, is_plain
from residscope.engine.protocols import At, Edit
from residscope.engine.structure import uncompiled
from residscope.engine.windows import Window
from residscope.model.sites import Site, SiteTable

if TYPE_CHECKING:
    from residscope.engine.model import Model
    from residscope.engine.recording import Recording

Pair = tuple[Tensor, Tensor]
# what the checks write into a run from another prompt's: that run keeps no more than these
OTHERS = (
    "attn_in",
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "mlp_in",
    "mlp_pre",
    "mlp_gate",
    "mlp_post",
    "attn_raw",
    "mlp_raw",
    "router",
)

LONGER = 32  # tokens; what acts past more than these is not seen


@dataclass(frozen=True)
class Write(Edit):
    """Replace a site's value by a tensor; the certificate's own edit."""

    site: Site
    value: Tensor

    def places(self, table: SiteTable) -> list[Site]:
        return [table.canonical(self.site)]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return self.value.to(value)[:, at.offset :] if self.value.shape[1] != value.shape[1] else self.value.to(value)


class Bench:
    """One model, its recorded run on a short prompt, another prompt's beside it, and a seeded source of noise.

    In half precision the rounding of a stream flips the choice of experts. There, whole runs are compared under one choice:
    `held` writes the first run's router logits.
    """

    def __init__(self, model: "Model", length: int = 6) -> None:
        self.model = model
        self.blamed: tuple[str, int] | None = None
        generator = torch.Generator().manual_seed(0)
        length = min(length, model.context)
        self.generator = generator
        ids = torch.stack([self.tokens(length) for _ in range(2)])
        table = model.sites
        self.sites = sorted({table.canonical(s) for name in table.names for s in table.expand(name)}, key=str)
        self.pinned: list[Write] = []
        if "router" in table.names and model.dtype.itemsize == 2:
            first = model.run(ids[0].tolist(), capture=["router"])
            self.pinned = [Write(site, first[site]) for site in first.sites]
        with torch.no_grad():
            self.stock = self._stock_logits(ids[0])
        self.rec = model.run(ids[0].tolist(), capture=self.sites, edits=self.pinned)
        self._other_ids = ids[1].tolist()

    def tokens(self, length: int) -> Tensor:
        """Random token ids [1 pos], none of them one that stands for an image or a sound."""
        ids = torch.randint(0, self.model.d_vocab, (1, length), generator=self.generator)
        left_out = placeholders(self.model.hf.config)
        free = next(i for i in range(self.model.d_vocab) if i not in left_out)
        for placeholder in left_out:
            ids[ids == placeholder] = free
        return ids.to(self.model.device)

    @cached_property
    def other(self) -> "Recording":
        """The other prompt's run: made where a check first writes from it, when the largest tensors are gone."""
        names = self.model.sites.names
        return self.model.run(self._other_ids, capture=[name for name in OTHERS if name in names])

    @cached_property
    def longer(self) -> "Recording":
        """The stream of a longer prompt."""
        ids = self.tokens(min(LONGER, self.model.context))
        return self.model.run(ids.tolist())

    def _stock_logits(self, ids: Tensor) -> Tensor:
        if self.pinned:
            return self.model.run(ids.tolist(), ["logits"], edits=self.pinned).logits
        with trained_off(self.model.layout), uncompiled():
            return self.model.hf(ids, use_cache=False).logits

    @property
    def elsewhere(self) -> bool:
        """Whether the model stands on one device, whole, that is not the CPU."""
        whole = not any(weight.is_meta for weight in self.model.hf.parameters())
        return whole and self.model.device.type != "cpu" and self.model.quantised is None and not self.pinned

    def on_cpu(self) -> Tensor:
        """The stock logits of the same weights on the CPU, which a device that is silently wrong does not give."""
        hf = self.model.hf
        weights = {name: x.detach().to("cpu", copy=True) for name, x in (*hf.named_parameters(), *hf.named_buffers())}
        with torch.no_grad(), trained_off(self.model.layout), uncompiled():
            return functional_call(hf, weights, (self.rec.tokens.cpu(),), {"use_cache": False}).logits

    @property
    def layers(self) -> range:
        return range(self.model.n_layers)

    def has(self, name: str, layer: int | None = None) -> bool:
        return self.model.sites.has(name, layer)

    def at(self, what: str, layer: int) -> None:
        """Say what the pairs that follow are of: which sites of a layer are wrong where they differ."""
        self.blamed = what, layer

    def noise(self, like: Tensor) -> Tensor:
        """Random values, each vector as long as the one it stands for."""
        x = torch.randn(like.shape, generator=self.generator).to(like)
        return x / x.norm(dim=-1, keepdim=True) * like.norm(dim=-1, keepdim=True).clamp_min(1e-3)

    def mlp_write(self, rec: "Recording", layer: int) -> Tensor | float:
        """What the MLP adds to the stream in a run; nothing where the block has none."""
        return rec["mlp_out", layer] if self.has("mlp_out", layer) else 0.0

    def attn_write(self, rec: "Recording", layer: int) -> Tensor | float:
        """What attention, or what stands in its place, adds to the stream in a run; nothing where the block has none."""
        return rec["attn_out", layer] if self.has("attn_out", layer) else 0.0

    def after(self, name: str, layer: int, value: Tensor, *, see: list[str]) -> "Recording":
        """What one block makes of a value written at one of its sites."""
        window = Window(self.rec, layer) if layer else None
        sites = [Site(s, layer) for s in see if self.has(s, layer)]
        return self.model.run(self.rec.batch, capture=sites, edits=[Write(Site(name, layer), value)], window=window)


Check = Callable[[Bench], Iterator[Pair]]
CHECKS: dict[str, tuple[str, Check]] = {}


def check(name: str, about: str) -> Callable[[Check], Check]:
    def keep(function: Check) -> Check:
        CHECKS[name] = (about, function)
        return function

    return keep


def linear(module: Any, x: Tensor) -> Tensor:
    """x through a linear layer, by its own matrix; by the layer itself where that is quantised."""
    if not is_plain(module):
        with torch.no_grad():
            return module(x)
    bias = in_memory(module, "bias")
    out = x @ weight_in_out(module)
    return out if bias is None else out + bias


def normed(norm: Norm | None, x: Tensor) -> Tensor:
    """x after a norm of the model's; x itself where the branch reads the stream as it is."""
    if norm is None:
        return x
    with torch.no_grad():
        return norm.module(x)


def norm_before_mlp(b: Bench, layer: int, parts: BlockParts) -> tuple[str, Norm | None]:
    """The stream that the MLP reads, and through which norm: on a parallel block perhaps attention's."""
    if b.has("resid_mid", layer):
        return "resid_mid", parts.mlp_norm
    return "resid_pre", parts.mlp_norm or parts.attn_norm


def halved(norm: Norm, out: Tensor) -> Tensor:
    return out / 2 if norm.bias is None else (out - norm.bias) / 2 + norm.bias


def summed(b: Bench, rec: "Recording", layer: int) -> Iterator[Pair]:
    """A block's branches and the stream they are added to, against the stream after each, in one run."""
    before_mlp = rec["resid_pre", layer] + b.attn_write(rec, layer)
    yield before_mlp + b.mlp_write(rec, layer), rec["resid_post", layer]
    if b.has("resid_mid", layer):
        yield before_mlp, rec["resid_mid", layer]


@check("no-op run", "logits of a run with every site captured = the stock model's")
def _noop_run(b: Bench) -> Iterator[Pair]:
    yield b.rec.logits, b.stock


@check("no-op edits", "logits with every site's value put back as it was = the stock model's")
def _noop_edits(b: Bench) -> Iterator[Pair]:
    yield b.model.run(b.rec.batch, ["logits"], edits=[*b.pinned, Same(tuple(b.sites))]).logits, b.stock


@check("beside the CPU", "logits = those of the same weights on the CPU, where the model is on another device")
def _beside_cpu(b: Bench) -> Iterator[Pair]:
    if b.elsewhere:
        yield b.stock.cpu(), b.on_cpu()


@check("stream", "resid_pre + attn_out + mlp_out = resid_post")
def _stream(b: Bench) -> Iterator[Pair]:
    for i in b.layers:
        yield from summed(b, b.rec, i)
    start = b.rec["embed"] + b.rec["pos_embed"] if b.has("pos_embed") else b.rec["embed"]
    yield start, b.rec["resid_pre.0"]


@check("norms", "attn_in, mlp_in, final_norm = the norm of the stream; scale x (norm - bias) = gain x stream")
def _norms(b: Bench) -> Iterator[Pair]:
    n = b.model.n_layers
    for i, parts in enumerate(b.model.layout.blocks):
        stream, mlp_norm = norm_before_mlp(b, i, parts)
        if b.has("attn_in", i):
            b.at("attn", i)
            yield b.rec["attn_in", i], normed(parts.attn_norm, b.rec["resid_pre", i])
        if b.has("mlp_in", i):
            b.at("mlp", i)
            yield b.rec["mlp_in", i], normed(mlp_norm, b.rec[stream, i])
        if b.has("attn_scale", i) and parts.attn_norm is not None:
            b.at("attn_scale", i)
            yield renormed(parts.attn_norm, b.rec["resid_pre", i], b.rec["attn_scale", i]), b.rec["attn_in", i]
        if b.has("mlp_scale", i) and parts.mlp_norm is not None:
            b.at("mlp_scale", i)
            yield renormed(parts.mlp_norm, b.rec[stream, i], b.rec["mlp_scale", i]), b.rec["mlp_in", i]
        for norm, name in ((parts.q_norm, "q"), (parts.k_norm, "k")):
            if norm is not None and b.has(f"{name}_scale", i):
                b.at(f"{name}_scale", i)
                x = _random_heads(b, b.rec[name, i], parts.qk_axes)
                yield renormed(norm, x, norm.sigma(x)), normed(norm, x)
    b.blamed = None
    final = b.model.layout.final_norm
    yield b.rec["final_norm"], normed(final, b.rec["resid_post", n - 1])
    yield renormed(final, b.rec["resid_post", n - 1], b.rec["final_scale"]), b.rec["final_norm"]


def _random_heads(b: Bench, like: Tensor, axes: str) -> Tensor:
    """Random queries or keys, as the norm of them takes them."""
    x = b.noise(like)
    return x.transpose(1, 2) if axes == "head pos d_head" else x.flatten(2) if axes == "pos all" else x


@check(
    "after the branches",
    "attn_out, mlp_out = the post-norm of attn_raw, mlp_raw, times the residual factor; also written",
)
def _after_branches(b: Bench) -> Iterator[Pair]:
    times = b.model.layout.factors.residual
    for i, parts in enumerate(b.model.layout.blocks):
        for branch, norm in (("attn", parts.attn_post_norm), ("mlp", parts.mlp_post_norm)):
            if not b.has(f"{branch}_raw", i):
                continue
            b.at(branch, i)
            raw, out = b.rec[f"{branch}_raw", i], b.rec[f"{branch}_out", i]
            yield normed(norm, raw) * times, out
            if norm is not None and b.has(f"{branch}_post_scale", i):
                b.at(f"{branch}_post_scale", i)
                scale = b.rec[f"{branch}_post_scale", i]
                yield renormed(norm, raw, scale) * times, out
                run = b.after(f"{branch}_post_scale", i, scale * 2, see=[f"{branch}_out"])
                yield run[f"{branch}_out", i], halved(norm, out / times) * times
            b.at(branch, i)
            if norm is not None or times != 1:
                x = b.noise(raw)
                yield b.after(f"{branch}_raw", i, x, see=[f"{branch}_out"])[f"{branch}_out", i], normed(norm, x) * times


def renormed(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    y = (norm.center(x) / scale) * norm.gain
    return (y if norm.bias is None else y + norm.bias).to(x.dtype)


@check("attention", "pattern = softmax(scores); pattern @ v = z; sum of results + bias = attn_raw")
def _attention(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        if not b.has("pattern", i):
            continue
        b.at("heads", i)
        yield softmaxed(b.rec, i, parts)
        if not b.has("z", i):
            continue
        mix = mixture(b.rec, i)
        if parts.z_changed:  # by a gate, which multiplies whatever was mixed
            b.at("z", i)
            run = b.after("v", i, b.rec["v", i].flip(-1), see=["z"])
            yield run["z", i] * mix, b.rec["z", i] * mix.flip(-1)
        else:
            yield mix, b.rec["z", i]
        if b.has("result", i) and parts.attn_beside is None:
            b.at("z", i)
            yield from written(b.rec, i, parts)


def softmaxed(rec: "Recording", layer: int, parts: BlockParts) -> Pair:
    """The softmax of the scores, and the pattern."""
    pattern = rec["pattern", layer]
    return softmax(rec["scores", layer].double(), parts.sinks, torch.float64).to(pattern), pattern


def mixture(rec: "Recording", layer: int) -> Tensor:
    """pattern @ v, `[batch pos head d_head]`."""
    return mixed(rec["pattern", layer], rec["v", layer])


def mixed(pattern: Tensor, v: Tensor) -> Tensor:
    """pattern @ v, `[batch pos head d_head]`, of values by KV head."""
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(pattern.shape[1] // v.shape[2], 2))


def written(rec: "Recording", layer: int, parts: BlockParts) -> Iterator[Pair]:
    """The sum of what the heads write, and attention's own output."""
    bias = in_memory(parts.attn_proj, "bias")
    heads = rec["result", layer].sum(2)
    yield heads if bias is None else heads + bias, rec["attn_raw", layer]


@check("neurons", "mlp_post W_out + b = mlp_raw; with a gate, mlp_post is linear in mlp_pre")
def _neurons(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        b.at("neurons", i)
        if parts.mlp_down is not None and b.has("mlp_post", i):
            yield linear(parts.mlp_down, b.rec["mlp_post", i]), b.rec["mlp_raw", i]
        if parts.mlp_gate is not None and b.has("mlp_gate", i):
            run = b.after("mlp_pre", i, b.rec["mlp_pre", i] * -2, see=["mlp_post"])
            yield run["mlp_post", i], b.rec["mlp_post", i] * -2


@check("router", "another run's router logits: the MLP as it is where its router reads the other run's stream")
def _router(b: Bench) -> Iterator[Pair]:
    for i, parts in enumerate(b.model.layout.blocks):
        if parts.router is None or not b.has("router", i):
            continue
        b.at("router", i)
        run = b.after("router", i, b.other["router", i], see=["mlp_raw"])
        x, other = b.rec["mlp_in", i], b.other["mlp_in", i]

        def elsewhere(module: Any, args: tuple[Any, ...], x: Tensor = x, other: Tensor = other) -> Any:
            return (other.reshape(args[0].shape), *args[1:])

        handle = parts.router.register_forward_pre_hook(elsewhere)
        try:
            with torch.no_grad(), trained_off(b.model.layout):
                made = b.model.layout.blocks[i].mlp(x)  # type: ignore[misc]
        finally:
            handle.remove()
        made = made[0] if isinstance(made, tuple) else made
        yield run["mlp_raw", i], made.view_as(x)


@check("lens", "lens at the end of the stream = logits")
def _lens(b: Bench) -> Iterator[Pair]:
    yield b.model.lens(b.rec["resid_post", b.model.n_layers - 1]), b.rec.logits


@check("windows", "runs from a middle layer, up to a layer, and recomputed sites = the whole run's")
def _windows(b: Bench) -> Iterator[Pair]:
    n = b.model.n_layers
    for start in sorted({n // 2, n - 1, n // 3, n}):
        run = b.model.run(b.rec.batch, ["logits"], edits=_pinned_from(b, start), window=Window(b.rec, start))
        yield run.logits, b.rec.logits
    stream = b.model.run(b.rec.batch, edits=b.pinned)
    for i in {0, n // 2, n - 1}:
        for name in ("k", "z", "mlp_post" if b.has("mlp_post", i) else "mlp_out", "attn_out"):
            if b.has(name, i):
                b.blamed = None if name.endswith("out") else ("neurons" if name == "mlp_post" else "heads", i)
                yield stream[name, i].flatten(2), b.rec[name, i].flatten(2)
    b.blamed = None
    yield stream.logits, b.rec.logits


@check("later positions", "runs of the later positions alone, the keys and values before them served = the whole run's")
def _later_positions(b: Bench) -> Iterator[Pair]:
    n, length = b.model.n_layers, b.rec.tokens.shape[1]
    for start, pos in sorted({(0, length // 2), (n - 1, length - 1), (n // 3, 1)}):
        window = Window(b.rec, start, None, min(pos, length - 1))
        run = b.model.run(b.rec.batch, ["logits"], edits=_pinned_from(b, start), window=window)
        yield run.logits, b.rec.logits[:, run.offset :]
    if b.model.dtype.itemsize == 2:  # as above: over many tokens some expert is another by rounding
        return
    last, length = Site("resid_post", n - 1), b.longer.tokens.shape[1]
    run = b.model.run(b.longer.batch, [last], window=Window(b.longer, 0, None, length // 2))
    yield run[last], b.longer[last][:, run.offset :]


def _pinned_from(b: Bench, start: int) -> list[Write]:
    return [write for write in b.pinned if (write.site.layer or 0) >= start]
