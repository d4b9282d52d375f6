"""The forward that a look begins with: a few tokens, and whether the model is one to be looked at."""

from typing import Any

import torch

from residscope.engine.finite import require_finite_weights
from residscope.engine.layout import placeholders
from residscope.engine.look.trace import LENGTH, Trace, trace
from residscope.engine.parameters import device_of
from residscope.engine.stock import call as stock_call
from residscope.errors import NotFinite, UnknownFamily


def first_trace(hf: Any) -> Trace:
    """A forward over token ids alone. Raises UnknownFamily: the model does not run so. NotFinite: it gives no numbers."""
    try:
        seen = trace(hf, _tokens(hf))
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise UnknownFamily(
            "the model does not run over token ids alone",
            received=f"{type(hf).__name__}: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            allowed="a decoder of text, or a model of images or sound and text whose text part runs without them",
        ) from error
    _require_finite(seen)
    return seen


def _require_finite(seen: Trace) -> None:
    """Raises NotFinite: a weight is no number, or what a module makes of a few tokens, the first one named."""
    if seen.logits is None or bool(torch.isfinite(seen.logits).all()):
        return
    require_finite_weights(seen.hf)
    every = sorted((c for calls in seen.calls.values() for c in calls), key=lambda c: c.ended)
    first = next((c.path for c in every if c.wrote is not None and not torch.isfinite(c.wrote).all()), "the logits")
    dtype = str(seen.logits.dtype).removeprefix("torch.")
    raise NotFinite(
        f"a run of {LENGTH} tokens is not finite from {first} on",
        received=f"NaN or infinity at {first}, in {dtype}",
        allowed="finite values at every site",
        fix=None if dtype == "float32" else "load it in a wider dtype: dtype=torch.float32",
        on_page=None if dtype == "float32" else "open it in a wider dtype: residscope open --dtype float32",
    )


def require_causal(seen: Trace) -> None:
    """Refuse a model whose earlier logits depend on later tokens: nothing here holds of it. Raises UnknownFamily."""
    other = seen.ids.clone()
    other[:, -1] = other[:, 0]
    before, after = seen.logits, stock_call(seen.hf, other).logits
    if before is None or not torch.allclose(
        before[:, :-1], after[:, :-1], rtol=1e-3, atol=1e-3 * float(before.abs().max())
    ):
        raise UnknownFamily(
            "the logits of a token depend on the tokens after it",
            received=type(seen.hf).__name__,
            allowed="a decoder: causal attention, or a state carried from token to token",
        )


def _tokens(hf: Any) -> torch.Tensor:
    """A few different token ids, none of them padding."""
    embed = hf.get_input_embeddings()
    count = embed.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    left_out = _special(hf.config) | placeholders(hf.config)
    drawn = torch.randperm(min(count, 50_000), generator=generator)[: LENGTH + len(left_out)].tolist()
    return torch.tensor([[i for i in drawn if i not in left_out][:LENGTH]], device=device_of(embed))


def _special(config: Any) -> set[int]:
    ids = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")]
    return {i for value in ids for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
