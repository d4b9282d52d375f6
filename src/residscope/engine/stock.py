"""What releases of transformers move about their models: found by looking at the model in hand, never by its version."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from residscope.engine.attention import active
from residscope.engine.layout import Layout
from residscope.engine.passes import Pass
from residscope.engine.places import Places
from residscope.engine.windows import whole_cache
from residscope.errors import UnknownFamily
from residscope.model.prompts import Batch

CACHE_NAMES = ("cache", "past_key_values")


def call(hf: Any, ids: Tensor, *, cache: Any = None) -> Any:
    """The stock model's own forward over token ids, over a cache where there is one."""
    named = {} if cache is None else {cache_name(hf): cache}
    return hf(input_ids=ids, use_cache=cache is not None, **named)


def cache_name(hf: Any) -> str:
    """What the model's forward calls its cache of keys and values.

    Raises:
        UnknownFamily: none of the names is there. A cache under another name could be swallowed without a word.
    """
    parameters, inner = signature(hf.forward).parameters, [*hf.children()]
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    if (
        parameters.keys() == {"args", "kwargs"} and len(inner) == 1
    ):  # a wrapper, torch.compile's for one, hands everything on
        return cache_name(inner[0])
    raise UnknownFamily(
        "the model's forward has no argument for a cache of keys and values",
        received=f"{type(hf).__name__}.forward{signature(hf.forward)}",
        allowed=" or ".join(CACHE_NAMES),
        fix="add the argument's name to CACHE_NAMES in residscope/engine/stock.py",
    )


def block_returns(layout: Layout, *, cached: bool) -> tuple[int | None, ...]:
    """What each block returns: None for the stream by itself, n for a tuple of n that begins with it.

    The blocks say so themselves, in one forward of one token when it is first asked. The caller holds the model's lock.
    """
    if cached not in layout.returns:
        layout.returns[cached] = _look(layout, cached=cached)
    return layout.returns[cached]


def _look(layout: Layout, *, cached: bool) -> tuple[int | None, ...]:
    ids = torch.zeros(1, 1, dtype=torch.long, device=layout.device)
    now = Pass(layout, Batch(ids, (1,)), capture=())
    places, returned = Places(now), dict.fromkeys(range(len(layout.blocks)))

    def looked(layer: int) -> Any:
        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            output = stock(*args, **kwargs)
            returned[layer] = _length(output)
            return output

        return run

    token = active.set(now)
    try:
        for layer, parts in enumerate(layout.blocks):
            places._around(parts.block, looked(layer))
        with torch.no_grad():
            call(getattr(layout.hf, "base_model", layout.hf), ids, cache=whole_cache() if cached else None)
    finally:
        active.reset(token)
        places.undo()
    return tuple(returned.values())


def _length(output: Any) -> int | None:
    if isinstance(output, Tensor):
        return None
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return len(output)
    raise UnknownFamily(
        "a block returns its stream in a form that is not known here",
        received=type(output).__name__,
        allowed="a tensor, or a tuple that begins with one",
        fix="teach residscope/engine/stock.py and places.py that form",
    )
