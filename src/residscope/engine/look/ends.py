"""The two ends: what makes the stream before the first block, and what makes the logits of it after the last."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residscope.engine.look.blocks import Chain
from residscope.engine.look.equal import Values, same, summed
from residscope.engine.look.norms import Found, as_norm
from residscope.engine.look.trace import Call, Trace, first_tensor, mine
from residscope.engine.places import first_input
from residscope.engine.stock import call as stock_call
from residscope.errors import UnknownFamily

_COLUMNS = 4096  # of the logits, compared with what the unembedding gives


@dataclass(frozen=True)
class Start:
    """embed: the token embedding; writer: the module whose output, times factor, is in the stream; pos: the positions'."""

    embed: str
    writer: Call
    factor: float
    pos: Call | None


@dataclass(frozen=True)
class End:
    """The final norm, the unembedding, and logits = cap(scale x raw)."""

    norm: Call
    kind: Found
    unembed: str
    scale: float
    cap: float | None


def find_start(trace: Trace, chain: Chain, close: float) -> Start:
    """What is added up to the stream before the first block. Raises UnknownFamily."""
    x = chain.streams[0]
    embed = trace.hf.get_input_embeddings()
    before = trace.alone(end=chain.calls[0].began)
    values = Values(before, len(x), chain.d_model, close)
    groups = values.groups()
    written = [w for group in groups if (w := values.wrote[group[0].path]) is not None]
    path = next((name for name, module in trace.hf.named_modules() if module is embed), None)
    for chosen, factors in summed(x, written, close, most=2):
        made = [min(groups[i], key=lambda c: c.path.count(".")) for i in chosen]
        own = [i for i, c in enumerate(made) if _of_tokens(trace, chain, c)]
        if path is None or len(own) != 1:
            continue
        other = [i for i in range(len(made)) if i != own[0]]
        if other and abs(float(factors[other[0]]) - 1) > 1e-6:
            continue
        return Start(path, made[own[0]], float(factors[own[0]]), made[other[0]] if other else None)
    raise UnknownFamily(
        "the stream before the first block is not made of a token embedding, and positions, that modules give",
        received=type(trace.hf).__name__,
        allowed="resid_pre.0 = a embed + pos_embed",
    )


def fed(trace: Trace, chain: Chain) -> bool:
    """Whether blocks are given something beside the stream that is another for other tokens."""
    seen: list[list[Tensor]] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(list(_tensors((args, kwargs), first_input(args, kwargs))))

    handles = [call.module.register_forward_pre_hook(mine(before), with_kwargs=True) for call in chain.calls]
    try:
        stock_call(trace.hf, trace.ids.flip(1))
    finally:
        for handle in handles:
            handle.remove()
    own = [list(_tensors((call.args, call.kwargs), first_input(call.args, call.kwargs))) for call in chain.calls]
    return any(
        len(old) != len(new) or any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(own, seen, strict=True)
    )


def _tensors(value: Any, stream: Tensor | None) -> Iterator[Tensor]:
    """Every tensor that a call is given, but for the stream."""
    if isinstance(value, Tensor):
        if value is not stream:
            yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, stream)


class _Enough(Exception):
    """Raised at the first block, when what comes before it has been seen."""


def _of_tokens(trace: Trace, chain: Chain, call: Call) -> bool:
    """Whether other tokens make a module give something else."""
    seen: list[Tensor | None] = []

    def after(module: Any, args: Any, output: Any) -> None:
        seen.append(first_tensor(output))

    def stop(module: Any, args: Any) -> None:
        raise _Enough

    handles = [
        call.module.register_forward_hook(mine(after)),
        chain.calls[0].module.register_forward_pre_hook(mine(stop)),
    ]
    try:
        stock_call(trace.hf, trace.ids.flip(1))
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return bool(seen) and seen[0] is not None and call.wrote is not None and not torch.equal(seen[0], call.wrote)


def find_end(trace: Trace, chain: Chain, close: float) -> End:
    """The way from the stream after the last block to the logits. Raises UnknownFamily."""
    y = chain.streams[-1]
    after = trace.alone(begin=chain.calls[-1].ended)
    values = Values(after, len(y), chain.d_model, close)
    for call in values.reading(y):
        kind = as_norm(call.module, values.read[call.path], values.wrote[call.path], close)
        if kind is None:
            continue
        for reader in after:
            if reader.wrote is None or trace.logits is None or reader.wrote.shape[-1] != trace.logits.shape[-1]:
                continue
            before = _proportional(values.read[reader.path], values.wrote[call.path], close)
            if before is None or (before != 1 and getattr(reader.module, "bias", None) is not None):
                continue
            raw, logits = (x.reshape(len(y), -1) for x in (reader.wrote, trace.logits))
            largest = logits.abs().amax(0).topk(min(_COLUMNS, logits.shape[-1])).indices  # where a cap shows most
            raw, logits = raw[:, largest].double(), logits[:, largest].double()
            if (scaled := _scaled(raw, logits, trace.hf.config, close)) is not None:
                return End(call, kind, reader.path, scaled[0] * before, scaled[1])
    raise UnknownFamily(
        "the logits are not the unembedding of a norm of the stream after the last block",
        received=type(trace.hf).__name__,
        allowed="logits = cap(scale unembed(norm(resid_post)))",
    )


def _proportional(value: Tensor | None, of: Tensor | None, close: float) -> float | None:
    """The factor by which one value is another; None where it is not."""
    if value is None or of is None or value.shape != of.shape:
        return None
    factor = float((value * of).sum() / (of * of).sum().clamp_min(1e-30))
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    return factor if same(value, of * factor, close) else None


def _scaled(raw: Tensor, logits: Tensor, config: Any, close: float) -> tuple[float, float | None] | None:
    """The factor and the cap between the unembedding's output and the logits; None where there are no such.

    Of small logits a cap takes next to nothing: the smallest error decides, unless a factor that is said is as good.
    """
    numbers = [v for v in numbers_of(config.to_dict()) if v > 0]
    tried: list[tuple[float, float | None]] = [(1.0, None), (_factor(raw, logits, numbers), None)]
    for cap in dict.fromkeys(v for v in numbers if v >= float(logits.abs().max())):
        before = torch.atanh((logits / cap).clamp(-1 + 1e-7, 1 - 1e-7)) * cap
        tried += [(1.0, cap), (_factor(raw, before, numbers), cap)]

    def error(factor: float, cap: float | None) -> float:
        made = raw * factor if cap is None else torch.tanh(raw * factor / cap) * cap
        return float((made - logits).norm() / logits.norm().clamp_min(1e-12))

    errors = [error(*one) for one in tried]
    least = min(errors)
    if least > close:
        return None
    plain = [0, *([1] if tried[1][0] in _said(numbers) else [])]
    return tried[next((i for i in plain if errors[i] <= 3 * least + 1e-9), errors.index(least))]


def _factor(raw: Tensor, logits: Tensor, numbers: list[float]) -> float:
    """What raw is to be multiplied by: a number of the configuration, or one over it, where it is as good as that."""
    factor = float((raw * logits).sum() / (raw * raw).sum().clamp_min(1e-30))
    near = [n for n in _said(numbers) if abs(n - factor) <= 1e-3 * n]
    return near[0] if near else factor


def _said(numbers: list[float]) -> list[float]:
    """One, the numbers of a configuration, and one over each."""
    return [n for number in (1.0, *numbers) for n in (number, 1 / number)]


def numbers_of(values: Any) -> list[float]:
    """Every number of a configuration, also in what it holds."""
    if isinstance(values, dict):
        return [x for value in values.values() for x in numbers_of(value)]
    if isinstance(values, int | float) and not isinstance(values, bool):
        return [float(values)]
    return []
