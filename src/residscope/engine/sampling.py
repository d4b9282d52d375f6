"""How the next token is picked, and when a row is done."""

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope.errors import BadSampling, NoTokenizer

Pick = Callable[[Float[Tensor, "d_vocab"], torch.Generator], int]


def picker(temperature: float, top_k: int | None, top_p: float | None) -> Pick:
    """The likeliest token at temperature 0; else a draw from softmax(logits / temperature), cut to top k and top p.

    Holtzman et al., 2019 (arXiv:1904.09751) for top p. The cuts are transformers' own.
    """
    numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise BadSampling(f"{name} is a number", received=f"{name}={value!r}", allowed="a finite number")
    if temperature < 0:
        raise BadSampling("temperature", received=str(temperature), allowed="0 (the likeliest token) or more")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise BadSampling("top_k is how many tokens are left", received=str(top_k), allowed="1, 2, 3 ...")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadSampling("top_p is a share of the probability", received=str(top_p), allowed="over 0 and up to 1")
    if temperature == 0:
        if top_k is not None or top_p is not None:
            raise BadSampling(
                "the likeliest token is taken, so nothing is cut", received=str(numbers), fix="give a temperature"
            )
        return lambda logits, _: int(logits.argmax())

    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    cuts = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    cuts += [] if top_k is None else [TopKLogitsWarper(top_k)]
    cuts += [] if top_p is None else [TopPLogitsWarper(float(top_p))]

    def draw(logits: Float[Tensor, "d_vocab"], generator: torch.Generator) -> int:
        probs = cuts(None, logits[None].float().cpu()).softmax(-1)
        return int(torch.multinomial(probs[0], 1, generator=generator))

    return draw


def generator(seed: int, row: int) -> torch.Generator:
    """A row's own stream of draws, so that a prompt's draws do not depend on what runs beside it."""
    state = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Stops:
    """Whether a row is done: one of these token ids came last, or its text holds one of these strings."""

    def __init__(self, model: Any, stop: str | int | Sequence[str | int] | None) -> None:
        given = [stop] if isinstance(stop, str | int) else list(_end_of_text(model) if stop is None else stop)
        for end in given:
            if isinstance(end, bool) or not isinstance(end, str | int) or end == "":
                raise BadSampling("stop is a text or a token id, or several", received=repr(end))
        self.texts = [end for end in given if isinstance(end, str)]
        self.ids = {end for end in given if isinstance(end, int)}
        if self.texts and model.tokenizer is None:
            raise NoTokenizer("this model came without a tokenizer", received=repr(self.texts), allowed="token ids")

    def __call__(self, ids: Sequence[int], text: str) -> bool:
        return ids[-1] in self.ids or any(stop in text for stop in self.texts)


def _end_of_text(model: Any) -> Iterable[int]:
    """The ids by which the model says it is done."""
    ends: set[int] = set()
    for holder in (getattr(model.hf, "generation_config", None), model.hf.config, model.tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        ends.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return ends
