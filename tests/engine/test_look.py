"""Every family that is described by hand, found by looking alone: the two say the same, whatever the weights are."""

import threading
from dataclasses import fields

import pytest
import torch
from by_hand import family_of
from families import FAMILIES

from residscope.engine import attention
from residscope.engine.flow import flow
from residscope.engine.layout import Layout, Norm, lay_out
from residscope.engine.look import family as looking
from residscope.engine.look import look
from tiny_models import hook_count

# what is stated by hand and no forward shows: slopes reach as far as memory does, queries that read positions by themselves turn
# as if rotated, and no name of transformers' is that of SoLU with a norm
UNSEEN = {
    "bloom": {"context"},
    "toy, shortformer": {"pos_embed", "positions", "flow"},
    "toy, solu": {"flow"},
}
UNSEEN_IN_HALF = UNSEEN | {"bloom": {"context", "flow"}}  # whose two gelus are one there
SIZES = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_qk", "d_mlp", "d_vocab", "context", "n_experts")
PARTS = ("factors", "embed", "embed_writer", "pos_embed", "final_norm", "unembed")


@pytest.fixture(params=FAMILIES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def both(name):
    attention.register()
    hf = FAMILIES[name].build()
    return by_hand(hf), lay_out(hf, look(hf))


def by_hand(hf):
    return lay_out(hf, family_of(hf.config))


def told(layout: Layout) -> dict[str, object]:
    """Everything that a layout says, as values that two layouts of one model can be compared by."""
    paths = {module: path for path, module in layout.hf.named_modules()}

    def plain(value):
        if isinstance(value, Norm):
            return paths[value.module], value.kind, value.eps, value.gain_offset
        if isinstance(value, torch.nn.Module):
            return paths[value]
        return value.data_ptr() if isinstance(value, torch.Tensor) else value

    said = {size: getattr(layout.sizes, size) for size in SIZES} | {
        part: plain(getattr(layout, part)) for part in PARTS
    }
    for i, block in enumerate(layout.blocks):
        said |= {f"{field.name}.{i}": plain(getattr(block, field.name)) for field in fields(block)}
    said |= {part: getattr(layout.family, part) for part in ("attention", "positions", "softmax_dtype")}
    said["absent"], said["aliases"] = set(layout.table.absent), dict(layout.table.aliases)
    said["flow"] = [flow(layout, i) for i in range(layout.sizes.n_layers)]
    return said


def test_what_is_found_is_what_the_file_says(name, both):
    file, found = map(told, both)
    assert file.keys() == found.keys()
    assert {key for key in file if file[key] != found[key]} == UNSEEN.get(name, set())


def test_half_precision_hides_nothing(name):
    hf = FAMILIES[name].build(seed=1).bfloat16()
    file, found = told(by_hand(hf)), told(lay_out(hf, look(hf)))
    assert {key for key in file if file[key] != found[key]} == UNSEEN_IN_HALF.get(name, set())


def test_a_stream_a_thousand_times_as_long_as_what_is_added_hides_nothing_in_half_precision():
    """As at a trained model's first token."""
    hf = FAMILIES["llama"].build()
    with torch.no_grad():
        hf.model.embed_tokens.weight.mul_(3e3)
    file, found = told(by_hand(hf.bfloat16())), told(lay_out(hf, look(hf)))
    assert file == found


def silence(layout, what):
    with torch.no_grad():
        for parts in layout.blocks[:2] if what == "both, in two layers" else layout.blocks[1:2]:
            for module in {"attention": [parts.attn_proj], "MLP": [parts.mlp_down or parts.experts]}.get(
                what, [parts.attn_proj, parts.mlp_down or parts.experts]
            ):
                for weight in module.parameters():
                    weight.zero_()


@pytest.mark.parametrize("what", ["attention", "MLP", "both, in two layers"])
@pytest.mark.parametrize("silent", ["llama", "gpt2", "mixtral", "gemma2", "bloom", "phi", "gptj"])
def test_a_branch_that_writes_nothing_is_described_as_one_that_does(silent, what):
    hf = FAMILIES[silent].build()
    silence(by_hand(hf), what)
    file, found = told(by_hand(hf)), told(lay_out(hf, look(hf)))
    assert {key for key in file if file[key] != found[key]} == UNSEEN.get(silent, set())
    assert hook_count(hf) == 0


@torch.no_grad()
def test_what_is_silent_stays_so_for_every_other_thread(monkeypatch):
    hf, ids, elsewhere = FAMILIES["llama"].build(), torch.arange(2, 9)[None], []
    silence(by_hand(hf), "both, in two layers")
    expected = hf(ids).logits

    def meanwhile(model):
        thread = threading.Thread(target=lambda: elsewhere.append(model(ids).logits.detach()))
        thread.start()
        thread.join()
        elsewhere.append(model(ids).logits)
        return first(model)

    first = looking.first_trace
    monkeypatch.setattr(looking, "first_trace", meanwhile)
    look(hf)
    assert torch.equal(elsewhere[0], expected)
    assert not torch.allclose(elsewhere[1], expected)


@torch.no_grad()
def test_another_threads_calls_of_the_model_are_no_part_of_the_look():
    hf, ids, done = FAMILIES["gptj"].build(), torch.arange(2, 13)[None], threading.Event()
    still, answers = look(hf), []

    def call():
        while not done.is_set():
            answers.append(hf(ids).logits)

    thread = threading.Thread(target=torch.no_grad()(call))
    thread.start()
    try:
        found = [look(hf) for _ in range(5)]
    finally:
        done.set()
        thread.join()
    assert found == [still] * 5
    assert all(torch.equal(one, answers[0]) for one in answers)


def test_looking_leaves_the_model_as_it_was(both):
    assert hook_count(both[0].hf) == 0
    assert not any(module.training for module in both[0].hf.modules())


def test_a_model_in_training_is_looked_at_as_it_infers_and_left_in_training():
    hf = FAMILIES["llama"].build()
    still = look(hf)
    hf.train()
    assert look(hf) == still
    assert all(module.training for module in hf.modules())
