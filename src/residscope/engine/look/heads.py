"""Heads: what of a branch's attention can be seen, as queries, keys, values, scores and their mix."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residscope.engine.attention import stock_attention
from residscope.engine.look.blocks import Branch
from residscope.engine.look.equal import same
from residscope.engine.look.norms import Found, as_norm
from residscope.engine.look.trace import Attended, Call, SoftmaxDtype, Trace, again
from residscope.engine.places import first_input


@dataclass(frozen=True)
class Heads:
    """One layer's attention. way: `interface` or `products`. shape: query heads, KV heads, d of q and k, d of v and z.

    changed: the output projection reads the mix of values after something of its own (a gate, a norm) has changed it. proj: None
    where no one matrix reads what every head gives.
    """

    core: str
    way: str
    proj: str | None
    shape: tuple[int, int, int, int]
    q_norm: str | None
    k_norm: str | None
    axes: str
    norm: Found | None
    sinks: str | None
    scale: float | str
    query_scale: str | None
    softcap: float | None
    wide: bool
    positions: str
    changed: bool


@dataclass(frozen=True)
class Mixed:
    """One layer's heads of which no one pattern is seen, only what each gives to the output projection; and why."""

    proj: str
    shape: tuple[int, int, int, int]
    why: str


def find_heads(trace: Trace, branch: Branch, close: float) -> Heads | Mixed | str:
    """The heads of a branch that mixes tokens; or why none can be seen."""
    names = {id(module): name for name, module in trace.hf.named_modules()}
    own = [
        seen
        for seen in trace.attended
        if names.get(id(seen.module), "") == branch.module.path
        or names.get(id(seen.module), "").startswith(f"{branch.module.path}.")
    ]
    inside = [c for c in trace.inside(branch.module.path) if c.path.startswith(branch.module.path)]
    if not own:
        return _mixed(inside, branch, "no softmax over keys is computed here", close)
    if len(own) > 1:
        why = f"{len(own)} attentions are computed here, which no one pattern is of"
        return _mixed(inside, branch, why, close)
    seen = own[0]
    proj, changed = _projection(inside, seen, close), False
    if proj is None:
        proj, changed = _last_matrix(inside, seen, branch, close), True
    core = names[id(seen.module)]
    q_norm, k_norm, axes, norm = _head_norms(trace, branch.module, seen, inside, close)
    shape = (seen.q.shape[0], seen.k.shape[0], seen.q.shape[-1], seen.v.shape[-1])
    matrix = None if proj is None else proj.path
    return Heads(
        core, seen.way, matrix, shape, q_norm, k_norm, axes, norm, _parameter(seen.module, seen.sinks, core),
        _named_number(seen.module, _scale(seen), 1e-6 if seen.way == "interface" else close),
        _query_scale(seen, inside, close), seen.softcap, _wide(seen), _positions(trace, branch.module, seen), changed,
    )  # fmt: skip


def _mixed(inside: list[Call], branch: Branch, why: str, close: float) -> Mixed | str:
    """The heads as a module gives them, side by side, to the last matrix, or a factor times it; or why none is seen."""
    length, raw = len(branch.read), branch.raw.wrote
    for last in inside:
        if last.read is None or last.wrote is None or raw is None or not last.matrix or last.read.numel() % length:
            continue
        read, wrote = last.read.reshape(length, -1).double(), last.wrote.reshape(length, -1).double()
        if wrote.numel() != raw.numel() or not same(wrote, raw.reshape(wrote.shape).double(), close):
            continue
        for call in (c for c in inside if c.ended < last.began and c.wrote is not None):
            assert call.wrote is not None
            d = call.wrote.shape[-1]
            if call.wrote.numel() != read.numel() or d == read.shape[1] or read.shape[1] % d:
                continue
            made = call.wrote.reshape(read.shape).double()
            factor = float((made * read).sum() / (made * made).sum().clamp_min(1e-30))
            if same(made * factor, read, close):
                heads = read.shape[1] // d
                return Mixed(last.path, (heads, heads, d, d), why)
    return why


def _projection(inside: list[Call], seen: Attended, close: float) -> Call | None:
    """The module that reads every head's mix of values, side by side."""
    z = seen.z.transpose(0, 1).flatten(1).double()
    for call in inside:
        if call.read is None or not call.matrix or call.read.numel() != z.numel():
            continue
        if same(call.read.reshape(z.shape).double(), z, close):
            return call
    return None


def _last_matrix(inside: list[Call], seen: Attended, branch: Branch, close: float) -> Call | None:
    """The matrix that gives what the branch writes, where it reads as much as every head gives."""
    size, raw = seen.z.shape[0] * seen.z.shape[2], branch.raw.wrote
    length = seen.z.shape[1]
    for call in inside:
        if call.read is None or call.wrote is None or raw is None or not call.matrix:
            continue
        wide = call.read.shape[-1] == size and call.read.numel() == size * length and call.wrote.numel() == raw.numel()
        if wide and same(call.wrote.reshape(length, -1).double(), raw.reshape(length, -1).double(), close):
            return call
    return None


def _head_norms(
    trace: Trace, around: Call, seen: Attended, inside: list[Call], close: float
) -> tuple[str | None, str | None, str, Found | None]:
    """The norms of queries and keys, and the axes of what they read."""
    found: dict[str, str] = {}
    axes, kind = "pos head d_head", None
    length, (heads, kv_heads, d) = len(trace.ids[0]), (seen.q.shape[0], seen.k.shape[0], seen.q.shape[-1])
    for call in inside:
        read, wrote = call.read, call.wrote
        if read is None or wrote is None or read.shape != wrote.shape:
            continue
        ways = {
            "pos head d_head": ((1, length, heads, d), (1, length, kv_heads, d)),
            "head pos d_head": ((1, heads, length, d), (1, kv_heads, length, d)),
            "pos all": ((1, length, heads * d), (1, length, kv_heads * d)),
        }
        way = next((w for w, shapes in ways.items() if tuple(read.shape) in shapes), None)
        if way is None:
            continue
        norm = as_norm(call.module, read.flatten(0, -2).double(), wrote.flatten(0, -2).double(), close)
        norm = norm or _norm_by_head(call, close)
        if norm is None:
            continue
        moved = again(trace.hf, around, seen.way, scaled=call.module)
        if moved is None:
            continue
        for name, old, new in (("q", seen.q, moved.q), ("k", seen.k, moved.k)):
            other = seen.k if name == "q" else seen.q
            still = moved.k if name == "q" else moved.q
            if not same(new, old, close) and same(still, other, close):
                found.setdefault(name, call.path)
                axes, kind = way, norm
    return found.get("q"), found.get("k"), axes, kind


def _norm_by_head(call: Call, close: float) -> Found | None:
    """A norm for each head, whose gains stand in a weight [head d_head] or in a module for each."""
    read, wrote = call.read, call.wrote
    assert read is not None
    assert wrote is not None
    inner = [m for m in call.module.modules() if m is not call.module]
    if not inner or read.ndim != 4:
        weight = getattr(call.module, "weight", None)
        if weight is None or weight.ndim != 2 or read.ndim != 4:
            return None
    for module in inner or [call.module]:
        for name, value in vars(module).items():
            if not isinstance(value, float) or not 0 <= value <= 1e-2:
                continue
            x = read.double()
            for kind in ("layer", "rms"):
                core = x - x.mean(-1, keepdim=True) if kind == "layer" else x
                unit = core / (core.pow(2).mean(-1, keepdim=True) + value).sqrt()
                gain = wrote.double() / unit
                spread = gain - gain.mean(2 if kind_axis(read, call) else 1, keepdim=True)
                if spread.norm() <= 10 * close * gain.norm():
                    return Found(kind, name, 0.0)
    return None


def kind_axis(read: Tensor, call: Call) -> bool:
    """Whether positions are the third axis of what a norm by head reads."""
    weights = list(call.module.parameters())
    heads = len(weights) if weights and weights[0].ndim == 1 else weights[0].shape[0]
    return bool(read.shape[1] == heads)


def _parameter(module: nn.Module, value: Tensor | None, path: str) -> str | None:
    """The path of the parameter that this is."""
    if value is None:
        return None
    return next(
        (f"{path}.{name}" for name, p in module.named_parameters() if p is value or p.data_ptr() == value.data_ptr()),
        None,
    )


def _wide(seen: Attended) -> bool:
    """Whether the softmax is in float32 at least, whatever the model's dtype: asked of the eager attention in another dtype.

    Half precision, or float64 where a parameter joins the scores, which would widen them by itself.
    """
    if seen.way != "interface":
        return seen.wide
    other = torch.bfloat16 if seen.sinks is None else torch.float64
    q, k, v = (x[None].to(other) for x in (seen.q, seen.k, seen.v))
    mode = SoftmaxDtype()
    try:
        with mode:
            stock_attention("eager", seen.module)(seen.module, q, k, v, None, scaling=1.0)
    except (RuntimeError, TypeError, AttributeError):
        return True
    return mode.wide is not False


def _scale(seen: Attended) -> float:
    return seen.q.shape[-1] ** -0.5 if seen.scaling is None else float(seen.scaling)


def _named_number(module: nn.Module, value: float, close: float) -> float | str:
    """What the module calls a number of its own, or one over it; or the number itself."""
    if abs(value - 1) <= close:
        return 1.0
    for name, x in vars(module).items():
        number = float(x) if isinstance(x, Tensor) and x.numel() == 1 else x
        if isinstance(number, float) and number > 0:
            if abs(number - value) <= close * value:
                return name
            if abs(1 / number - value) <= close * value:
                return f"1/{name}"
    return value


def _query_scale(seen: Attended, inside: list[Call], close: float) -> str | None:
    """The factor that is in the queries already, where it is one of the module's own numbers."""
    q = seen.q.transpose(0, 1).flatten(1).double()
    for call in inside:
        if call.wrote is None or call.wrote.numel() != q.numel() or call.wrote.shape[-1] != q.shape[-1]:
            continue
        made = call.wrote.reshape(q.shape).double()
        factor = float((made * q).sum() / (made * made).sum().clamp_min(1e-30))
        if abs(factor - 1) > close and same(made * factor, q, close):
            name = _named_number(seen.module, factor, close)
            return name if isinstance(name, str) else None
    return None


def _positions(trace: Trace, around: Call, seen: Attended) -> str:
    """How a head knows where it is: `rotary` where one token at every position gives queries that differ, else `none`."""
    if seen.sloped:
        return "slopes"
    read = first_input(around.args, around.kwargs)
    assert read is not None
    alike = read[:, :1].expand_as(read).contiguous()
    moved = again(trace.hf, around, seen.way, read=alike)
    if moved is None:
        return "none"
    turned = (moved.q - moved.q[:, :1]).abs().max() > 1e-4 * moved.q.abs().max()
    return "rotary" if bool(turned) else "none"
