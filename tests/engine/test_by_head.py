"""A long run's attention, one key-value head after another: the stock numbers to the last bit, and stopped between two heads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from residscope.engine import hooks, passes
from residscope.engine.model import Model
from residscope.errors import Cancelled
from residscope.progress import ask_within, asking
from tiny_models import VARIANTS, hook_count

ROWS = [list(range(2, 14)), list(range(4, 11))]  # padded: attention has a mask


@pytest.fixture(autouse=True)
def _all_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "LONG", 8)
    monkeypatch.setattr(passes, "LONG", 8)


def counted(calls: list[int | None], most: int = 1 << 30) -> Callable[..., None]:
    def tell(done: int | None = None) -> None:
        calls.append(done)
        if len(calls) > most:
            raise Cancelled("enough")

    return tell


@pytest.mark.parametrize("prompt", [ROWS[:1], ROWS], ids=["alone", "padded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_stock_attention_to_the_last_bit(variant: str, prompt: Any) -> None:
    model = Model(VARIANTS[variant](), name=variant)
    plain, calls = model.run(prompt, ["resid_post", "logits"]), []
    with asking(counted(calls), lambda: False):
        asked = model.run(prompt, ["resid_post", "logits"])
    assert all(torch.equal(plain[site], asked[site]) for site in plain.sites)
    assert calls.count(None) == model.n_layers, "a block is asked for once"
    by_head = model.n_kv_heads if model.n_kv_heads > 1 else 0
    assert calls.count(0) >= model.n_layers * by_head
    assert model.hf.config._attn_implementation == "sdpa"


def test_it_stops_between_two_heads_and_leaves_nothing() -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    before = model.run(ROWS, ["logits"])["logits"]
    whole: list[int | None] = []
    with asking(counted(whole), lambda: False):
        model.run(ROWS, ["logits"])
    for most in range(len(whole)):
        calls: list[int | None] = []
        with pytest.raises(Cancelled), asking(counted(calls, most), lambda: False):
            model.run(ROWS, ["logits"])
        assert len(calls) == most + 1, "nothing is asked, or run, after the one that said so"
        assert hook_count(model.hf) == 0
        assert model.hf.config._attn_implementation == "sdpa"
    assert torch.equal(model.run(ROWS, ["logits"])["logits"], before)


def test_sites_inside_attention_can_be_stopped_there_too() -> None:
    model, calls = Model(VARIANTS["llama"](), name="llama"), []
    with pytest.raises(Cancelled), asking(counted(calls, 2), lambda: False):
        model.run(ROWS, ["pattern.1"])
    assert calls[:2] == [None, 0]


def test_whoever_asks_outside_is_asked_as_well() -> None:
    outer, inner = [], []
    with asking(counted(outer), lambda: False), asking(counted(inner), lambda: False):
        ask_within()
    ask_within()
    assert (outer, inner) == ([0], [0])
