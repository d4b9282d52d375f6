"""Every equation that a block's drawing shows, for every family, worked out in plain torch from what a run recorded.

Which matrix a projection has is not asked: that its output is linear in its input is read off many tokens by least squares, and
whether it has a bias off a run whose input there is zero. So no family's packing of weights is written down here.
"""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor
from transformers.activations import ACT2FN

from residscope import edits
from residscope.engine.flow import Step, flow
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.model import toys
from residscope.model.sites import KINDS

CLOSE = 2e-6  # float64, but many stock families norm or softmax in float32
FAR = 1e-3
ROWS, LENGTH = 80, 6
NO_EQUATION = {"embed", "pos_embed", "experts"}


class Worked:
    """One layer of a run, and its equations' terms by name."""

    def __init__(self, rec: Recording, layer: int) -> None:
        self.rec, self.layer, self.model = rec, layer, rec.model
        self.block = rec.model.hf.get_submodule(rec.model.family.blocks)[layer]
        self.names = rec.model.family.block

    def at(self, place: str) -> Tensor:
        name = place.split(".")[0]
        return self.rec[place if "." in place or not KINDS[name].layered else f"{place}.{self.layer}"].double()

    @cached_property
    def _zeroed(self) -> Recording:
        names = [name for name in ("attn_in", "z", "mlp_in", "mlp_post") if name in self.model.sites.names]
        zeros = [edits.ablate(f"{name}.{self.layer}") for name in names]
        return self.model.run(self.rec.tokens[:1].tolist(), capture=self.model.sites.names, edits=zeros)

    def of_zero(self, place: str) -> Tensor:
        """What stands there where the layer's projections read zeros."""
        return self._zeroed[place].double()

    def module(self, path: str | None) -> Any:
        return self.block.get_submodule(str(path))

    def norm_of(self, scale: str) -> Any:
        return self.module(
            {
                "attn_scale": self.names.attn_norm,
                "mlp_scale": self.names.mlp_norm,
                "attn_post_scale": self.names.attn_post_norm,
                "mlp_post_scale": self.names.mlp_post_norm,
            }[scale]
        )

    def by_query_head(self, name: str, written: str) -> Tensor:
        """Keys or values, one for each query head, as `[h//3]` says."""
        value = self.at(name)
        index = re.search(r"\[(.+?)\]", written)
        heads = range(self.model.n_heads)
        if index is None:
            assert value.shape[2] == self.model.n_heads
            return value
        return value[:, :, [eval(index[1], {}, {"h": h}) for h in heads]]


@pytest.fixture(params=FAMILIES, scope="module")
def rec(request: pytest.FixtureRequest) -> Recording:
    model = Model(FAMILIES[request.param].build(), name=request.param)
    generator = torch.Generator().manual_seed(1)
    first = torch.randperm(model.d_vocab - 2, generator=generator)[:ROWS, None] + 2
    rest = torch.randint(2, model.d_vocab, (ROWS, LENGTH - 1), generator=generator)
    return model.run(torch.cat([first, rest], 1).tolist(), capture=model.sites.names)


def test_every_site_of_a_layer_is_one_step_and_reads_what_came_before(rec: Recording) -> None:
    model = rec.model
    for layer in range(model.n_layers):
        steps = flow(model.layout, layer)
        own = [step.place for step in steps if not step.hidden and KINDS[step.place.split(".")[0]].layered]
        assert sorted(own) == sorted(f"{name}.{layer}" for name in model.sites.names if KINDS[name].layered)
        seen = {f"resid_post.{layer - 1}"}
        for step in steps:
            assert seen >= {*step.reads}, f"{step.place} reads what is not there yet"
            seen.add(step.place)
        ends = {str(model.sites.canonical(step.place)): step.same for step in steps if step.same}
        assert all(step == end for step, end in ends.items()), "what is the same tensor, the table says so too"


def test_every_equation_holds(rec: Recording) -> None:
    for layer in range(rec.model.n_layers):
        worked = Worked(rec, layer)
        for step in flow(rec.model.layout, layer):
            name = step.place.split(".")[0]
            if name not in NO_EQUATION:
                evaluator(step)(worked, step, worked.at(step.place))


def evaluator(step: Step) -> Callable[[Worked, Step, Tensor], None]:
    found = [check for pattern, check in EQUATIONS if re.fullmatch(pattern, step.equation)]
    assert len(found) == 1, f"{step.place} = {step.equation}: {len(found)} checks of it"
    return found[0]


def same(worked: Any, step: Step, got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=CLOSE, msg=lambda m: f"{step.place} = {step.equation}: {m}")


def misfit(x: Tensor, y: Tensor, *, constant: bool) -> float:
    """How much of y, a row each token, no linear map of x gives."""
    x = x.flatten(0, -2)
    y = y.reshape(len(x), -1)
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1) if constant else x
    left = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return float(left.norm() / y.norm())


def affine(w: Worked, step: Step, x: Tensor, y: Tensor, biased: bool) -> None:
    assert misfit(x, y, constant=biased) < 1e-5, f"{step.place} = {step.equation}"
    assert bool(w.of_zero(step.place)[0, 0].abs().max() > FAR) == biased, f"{step.place}: b or no b"


def total(w: Worked, step: Step, got: Tensor) -> None:
    same(w, step, got, sum(w.at(name) for name in step.equation.split(" + ")))  # type: ignore[arg-type]


def scaled(w: Worked, step: Step, got: Tensor) -> None:
    factor, name = step.equation.split()
    same(w, step, got, float(factor) * w.at(name))


def divisor(w: Worked, step: Step, got: Tensor) -> None:
    norm, x = w.norm_of(step.place.split(".")[0]), w.at(step.reads[0])
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    squares = x.var(-1, correction=0, keepdim=True) if "var" in step.equation else (x**2).mean(-1, keepdim=True)
    same(w, step, got, (squares + eps).sqrt())


def normed(w: Worked, step: Step, got: Tensor) -> None:
    x, scale = (w.at(name) for name in step.reads)
    norm = w.norm_of(step.reads[1].split(".")[0])
    g = norm.weight.double() + ("gemma" in w.model.hf.config.model_type)
    want = (x - x.mean(-1, keepdim=True) if "mean" in step.equation else x) / scale * g
    if step.equation.endswith("+ b"):
        assert norm.bias.abs().max() > 0
        want = want + norm.bias
    else:
        assert getattr(norm, "bias", None) is None
    same(w, step, got, want.detach())


def projected(w: Worked, step: Step, got: Tensor) -> None:
    """q, k, v: linear in what they read at the first position, which no rotation turns; turned at the others, or not."""
    name, biased = step.place[0], "W_" in step.equation and bool(re.search(r"W_. \+ b", step.equation))
    x = w.at("attn_in")
    if f"{name}_scale" in " ".join(step.reads):
        got = got * w.at(f"{name}_scale")
        shift = step.equation.endswith("g + b)")
        assert misfit(x[:, 0], got[:, 0], constant=True) < 1e-5 or shift
        if shift:  # b times the divisor is one more column
            columns = torch.cat([x[:, 0], w.at(f"{name}_scale")[:, 0, :, 0]], -1)
            assert misfit(columns, got[:, 0], constant=True) < 1e-5
            return
    else:
        affine(w, step, x[:, 0], got[:, 0], biased)
    every = misfit(x.flatten(0, 1), got.flatten(0, 1), constant=True)
    if "rotate" in step.equation or "position" in step.equation:
        assert every > FAR, f"{step.place} is not turned"
    else:
        assert every < 1e-5, f"{step.place} is turned, or has positions"


def norm_of_heads(w: Worked, step: Step, got: Tensor) -> None:
    """Its square is that of something linear in x: a sum of the products of x's entries, seen at the first position."""
    module = w.module(w.names.q_norm if step.place[0] == "q" else w.names.k_norm)
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        w.model.hf(w.rec.tokens, use_cache=False)
    hook.remove()
    x = seen[0].double()
    eps = next(getattr(m, name) for m in module.modules() for name in ("eps", "variance_epsilon") if hasattr(m, name))
    squares = x.var(-1, correction=0) if "var" in step.equation else (x**2).mean(-1)
    want = (squares + eps).sqrt()
    if want.ndim == 2:
        want = want[:, :, None].expand(got.shape[:3])
    elif w.names.qk_norm_axes == "head pos d_head":
        want = want.transpose(1, 2)
    same(w, step, got[..., 0], want)
    heads_last = x.transpose(1, 2) if w.names.qk_norm_axes == "head pos d_head" else x
    assert (
        misfit(w.at("attn_in"), heads_last.reshape(*got.shape[:2], -1), constant=step.equation.endswith("+ b")) < 1e-5
    )


def scored(w: Worked, step: Step, got: Tensor) -> None:
    text = step.equation
    product = torch.einsum("bqhd,bkhd->bhqk", w.at("q"), w.by_query_head("k", text))
    if root := re.search(r"k(?:\[.+?\])? / √(\d+)", text):
        product = product / float(root[1]) ** 0.5
    elif over := re.search(r"k(?:\[.+?\])? / (\d+)", text):
        product = product / float(over[1])
    if cap := re.match(r"([\d.]+) tanh", text):
        assert text.count(f"/ {cap[1]}") == 1
        product = float(cap[1]) * torch.tanh(product / float(cap[1]))
    seen = got > -1e4
    assert not bool(torch.triu(seen, 1).any()), "the mask hides later keys"
    if "slope" not in text:
        same(w, step, got[seen], product[seen])
        return
    rest = (got - product)[:, :, -1]  # of the last query, which sees all keys
    steps = rest.diff(dim=-1)
    torch.testing.assert_close(steps, steps[:, :, :1].expand_as(steps), atol=1e-5, rtol=1e-5)
    assert len(steps[0, :, 0].unique()) == w.model.n_heads, "a slope for each head"


def softmaxed(w: Worked, step: Step, got: Tensor) -> None:
    raised = (w.at("scores") - w.at("scores").amax(-1, keepdim=True)).exp()
    rest = raised.sum(-1, keepdim=True)
    if "sink" in step.equation:
        sink = w.module(w.names.attn).sinks.detach().double()[None, :, None, None]
        rest = rest + (sink - w.at("scores").amax(-1, keepdim=True)).exp()
        assert float(got.sum(-1).max()) < 1
    same(w, step, got, raised / rest)


def mixed(w: Worked, step: Step, got: Tensor) -> None:
    same(w, step, got, torch.einsum("bhqk,bkhd->bqhd", w.at("pattern"), w.by_query_head("v", step.equation)))


def head_writes(w: Worked, step: Step, got: Tensor) -> None:
    for head in range(w.model.n_heads):
        assert misfit(w.at("z")[:, :, head], got[:, :, head], constant=False) < 1e-5


def heads_summed(w: Worked, step: Step, got: Tensor) -> None:
    rest = (got - w.at("result").sum(2)).flatten(0, 1)
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), atol=CLOSE, rtol=CLOSE)
    assert bool(rest.abs().max() > FAR) == step.equation.endswith("+ b")


def linear(w: Worked, step: Step, got: Tensor) -> None:
    affine(w, step, w.at(step.reads[0]), got, step.equation.endswith("+ b"))


def activated(w: Worked, step: Step, got: Tensor) -> None:
    match = re.fullmatch(r"(norm\()?(\w+)\(mlp_(gate|pre)\)\)?( ∘ mlp_pre)?", step.equation)
    assert match is not None
    normed, act, inner, gated = match.groups()
    function = toys.ACTIVATIONS["solu"] if act == "solu" else ACT2FN[act]
    want = function(w.at(f"mlp_{inner}"))
    want = w.module("mlp.norm")(want).detach() if normed else want
    same(w, step, got, want * w.at("mlp_pre") if gated else want)


def experts(w: Worked, step: Step, got: Tensor) -> None:
    with torch.no_grad():
        out = w.module(w.names.mlp)(w.at("mlp_in").to(w.model.dtype))
    same(w, step, got, out[0] if isinstance(out, tuple) else out)


EQUATIONS: list[tuple[str, Callable[[Worked, Step, Tensor], None]]] = [
    (r"[a-z_]+(\.\d+)?( \+ [a-z_]+)*", total),
    (r"[\d.]+ (attn|mlp)_raw", scaled),
    (r"√\((var x|mean x²) \+ ε\)", divisor),
    (r"√\((var x|mean x²) \+ ε\) of x W_[QK]( \+ b)?", norm_of_heads),
    (r"(x|\(x − mean\)|attn_raw|mlp_raw) / (attn|mlp)_(post_)?scale · g( \+ b)?", normed),
    (r"(rotate\()?\(*(x|\(x \+ position\)) W_[QKV].*", projected),
    (r"([\d.]+ tanh\()?q·k.* \+ mask", scored),
    (r"softmax\(scores\)|exp s / \(Σ exp s \+ exp sink\)", softmaxed),
    (r"pattern v.*", mixed),
    (r"z W_O", head_writes),
    (r"Σ_h result( \+ b)?", heads_summed),
    (r"(x W_(in|gate|router)|mlp_post W_out)( \+ b)?", linear),
    (r"(norm\()?\w+\(mlp_(gate|pre)\)\)?( ∘ mlp_pre)?", activated),
    (r"Σ_e weight_e expert_e\(x\)", experts),
]
