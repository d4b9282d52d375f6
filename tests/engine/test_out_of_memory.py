"""A forward that runs out of memory is refused in words, with what would have fitted, and leaves nothing behind."""

import re
from typing import Any

import pytest
import torch

from residscope.engine.model import Model
from residscope.errors import TooLarge
from tiny_models import hook_count, tiny_llama

ERRORS = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    torch.OutOfMemoryError("CUDA out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["python", "cpu", "card"])
def test_out_of_memory_on_the_way_is_refused_with_what_would_fit(error: BaseException) -> None:
    model = Model(tiny_llama(), name="llama")

    def fail(*_: Any) -> None:
        raise error

    before = model.run([[2, 3, 4]], ["logits"])["logits"]
    handle = model.hf.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(TooLarge, match="does not fit in memory") as refused:
        model.run([[2, 3, 4]], ["resid_post"])
    handle.remove()
    fits = re.search(r"about ([\d,]+) tokens", str(refused.value))
    assert fits is not None
    assert int(fits[1].replace(",", "")) > 0
    assert hook_count(model.hf) == 0
    assert torch.equal(model.run([[2, 3, 4]], ["logits"])["logits"], before)


def test_another_failure_is_not_one_of_memory() -> None:
    model = Model(tiny_llama(), name="llama")

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    handle = model.hf.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes"):
        model.run([[2, 3, 4]], ["resid_post"])
    handle.remove()
