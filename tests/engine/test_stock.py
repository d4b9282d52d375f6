"""What releases of transformers move (how a block returns its stream, what a cache is called) is found by looking."""

import logging
import warnings

import pytest
import torch
import transformers
from families import FAMILIES
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import create_causal_mask

import residscope as rs
from residscope import edits, errors
from residscope.engine import stock
from residscope.engine.model import Model
from residscope.engine.passes import Pass
from residscope.engine.seams import AttentionProducts
from residscope.engine.windows import Window
from residscope.model import toys
from residscope.model.sites import Site

FORMS = {
    "bare": lambda x: x,
    "one": lambda x: (x,),
    "two": lambda x: (x, None),
    "three": lambda x: (x, x.sum(), "a string"),
}
LENGTHS = {"bare": None, "one": 1, "two": 2, "three": 3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))


def release(monkeypatch, form: str, last: str | None = None) -> None:
    """A release in which blocks return their stream so, and the last one (otherwise, if `last` says so)."""
    plain = toys.ToyBlock.forward

    def block(self, hidden_states, **kwargs):
        mine = last if last and self.self_attn.layer_idx == self.self_attn.config.num_hidden_layers - 1 else form
        return FORMS[mine](plain(self, hidden_states, **kwargs))

    def model(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, inputs_embeds=None, **_):
        x = self.embed_tokens(input_ids)
        seen = 0 if cache is None else cache.get_seq_length()
        position_ids = torch.arange(seen, seen + x.shape[1]).unsqueeze(0)
        mask = create_causal_mask(self.config, x, attention_mask, cache, position_ids)
        x = x + self.embed_positions(position_ids)
        for i, layer in enumerate(self.layers):
            out = layer(x, attention_mask=mask, cache=cache)
            mine = LENGTHS[last if last and i == len(self.layers) - 1 else form]
            # as strict as code that unpacks: any other form than the release's own breaks it
            assert isinstance(out, Tensor) if mine is None else isinstance(out, tuple) and len(out) == mine
            x = out if mine is None else out[0]
        return self.norm(x)

    monkeypatch.setattr(toys.ToyBlock, "forward", block)
    monkeypatch.setattr(toys.ToyModel, "forward", model)


@pytest.mark.parametrize("form", FORMS)
def test_a_block_may_return_its_stream_in_any_of_these_forms(monkeypatch, ids, form):
    hf = FAMILIES["toy, gelu"].build()
    expected = Model(hf).run(ids, ["logits"], edits=[edits.ablate("z.2", head=1)]).logits
    release(monkeypatch, form)
    model = rs.load((hf, None))
    base = model.run(ids)
    for start, pos in ((1, 0), (2, 4), (3, 10)):
        cut = [edits.ablate("z.2", head=1)] if start < 3 else []
        whole = expected if cut else base.logits
        run = model.run(ids, ["logits"], edits=cut, window=Window(base, start, None, pos))
        torch.testing.assert_close(run.logits, whole[:, pos:])
        assert stock.block_returns(model.layout, cached=pos > 0) == (LENGTHS[form],) * 3
    swept = rs.sweep(model, ids, [(edits.ablate("z.2", head=1),)], rs.log_prob(5)).run()
    alone = rs.log_prob(5)(model.run(ids, ["logits"], edits=[edits.ablate("z.2", head=1)]))
    torch.testing.assert_close(torch.as_tensor(swept.values).flatten(), alone.flatten())


@pytest.mark.parametrize("last", ["bare", "three"])
def test_blocks_of_one_model_may_return_it_in_different_forms(monkeypatch, ids, last):
    release(monkeypatch, "two", last)
    model = rs.load((FAMILIES["toy, gelu"].build(), None))
    assert stock.block_returns(model.layout, cached=False) == (2, 2, LENGTHS[last])


def test_another_model_of_the_same_object_looks_again(monkeypatch, ids):
    hf = FAMILIES["toy, gelu"].build()
    first = Model(hf)
    base = first.run(ids)
    expected = first.run(ids, ["logits"], window=Window(base, 1)).logits
    release(monkeypatch, "three")
    second = Model(hf)
    run = second.run(ids, ["logits"], window=Window(second.run(ids), 1))
    torch.testing.assert_close(run.logits, expected)


def test_a_form_that_is_not_known_is_refused(monkeypatch, ids):
    model = Model(FAMILIES["toy, gelu"].build())
    base = model.run(ids)
    plain = toys.ToyBlock.forward
    monkeypatch.setattr(toys.ToyBlock, "forward", lambda self, *args, **kwargs: [plain(self, *args, **kwargs)])
    with pytest.raises(errors.UnknownFamily, match="list"):
        model.run(ids, ["logits"], window=Window(base, 1))
    assert not model.layout.returns


def test_looking_happens_once_and_leaves_nothing_behind(ids):
    model = Model(FAMILIES["gptj"].build())
    base, calls = model.run(ids), []
    model.hf.train()
    handle = model.layout.blocks[0].block.register_forward_hook(lambda *_: calls.append(model.hf.training))
    state = torch.get_rng_state()
    for _ in range(3):
        model.run(ids, ["logits"], window=Window(base, 2))
    handle.remove()
    assert len(calls) == 1 + 3  # the look's own call, and one, skipped, for each run
    assert torch.equal(torch.get_rng_state(), state)  # no dropout was drawn
    assert model.hf.training


class Speaks(nn.Module):
    """A toy under a forward of another release, or of a wrapper."""

    def __init__(self, hf):
        super().__init__()
        self.config, self.model, self.lm_head, self.inner, self.given = hf.config, hf.model, hf.lm_head, hf, []

    def call(self, **kwargs):
        self.given.append({name for name, value in kwargs.items() if value is not None})
        cache = kwargs.pop("cache", None)
        return self.inner(past_key_values=kwargs.pop("past_key_values", cache), **kwargs)


class New(Speaks):
    def forward(self, input_ids=None, cache=None, use_cache=None):
        return self.call(input_ids=input_ids, cache=cache, use_cache=use_cache)


class Old(Speaks):
    def forward(self, input_ids=None, past_key_values=None, use_cache=None):
        return self.call(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)


class Both(Speaks):
    def forward(self, input_ids=None, past_key_values=None, use_cache=None, cache=None):
        assert past_key_values is None, "deprecated"
        return self.call(input_ids=input_ids, cache=cache, use_cache=use_cache)


class Wrapper(nn.Module):
    """Hands everything on under no names of its own, and its inner model's parts for its own, as torch.compile's does."""

    def __init__(self, hf):
        super().__init__()
        self.inner = hf

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(
    ("build", "name"),
    [(New, "cache"), (Old, "past_key_values"), (Both, "cache"),
     (lambda hf: Wrapper(New(hf)), "cache"), (lambda hf: Wrapper(Old(hf)), "past_key_values")],
)  # fmt: skip
def test_the_cache_goes_in_under_the_forwards_own_name(ids, build, name):
    toy = FAMILIES["toy, gelu"].build()
    plain, hf = Model(toy), build(toy)
    model = Model(hf)
    rec = model.run(ids)
    assert hf.given == [{"input_ids", "use_cache"}]  # no cache, no argument for one: none that a release could warn of
    late = model.run(ids, ["logits"], window=Window(rec, 0, None, 6))
    torch.testing.assert_close(late.logits, plain.run(ids).logits[:, 6:])
    assert hf.given[-1] == {"input_ids", "use_cache", name}
    assert model.generate(ids[:1], max_new_tokens=4).ids == plain.generate(ids[:1], max_new_tokens=4).ids


def test_a_forward_that_would_swallow_the_cache_is_refused(ids):
    class Swallows(Speaks):
        def forward(self, input_ids=None, use_cache=None, **anything):
            return self.inner.model(input_ids)

    hf = Swallows(FAMILIES["toy, gelu"].build())
    with pytest.raises(errors.UnknownFamily, match=r"Swallows.forward.*cache or past_key_values"):
        stock.call(hf, ids, cache=object())


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_a_fused_kernel_keeps_the_scale_its_module_gives_it(ids, scale):
    """A module without the interface may hand its product to a kernel, in this release or the next: unscaled, as GPT-Neo's is."""
    model = Model(FAMILIES["gpt_neo"].build())
    now = Pass(model.layout, model.batch(ids), capture=[Site("pattern", 0), Site("z", 0)])
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, model.n_heads, 11, model.d_head, generator=generator).double()
    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    with AttentionProducts(now, 0):
        got = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)  # the softmax is in float32
    torch.testing.assert_close(now.values[Site("z", 0)], expected.transpose(1, 2), atol=1e-6, rtol=1e-6)


class Told(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_warns_of_nothing(name, ids):
    model, told = Model(FAMILIES[name].build()), Told()
    logger = logging.getLogger("transformers")
    transformers.utils.logging.warning_once.cache_clear()
    logger.addHandler(told)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            base = model.run(ids, model.sites.names)
            model.run(ids, ["logits"], edits=[edits.ablate("z.1", head=0)], window=Window(base, 1, None, 3))
            rs.sweep(model, ids, [(edits.ablate("z.1", head=1),)], rs.log_prob(5)).run()
            assert len(model.generate(ids[:1], max_new_tokens=3, stop=()).ids) == 3
    finally:
        logger.removeHandler(told)
    assert told.lines == []
