"""Scores that are planted: of the offset, of the key, of the pair alone; and position embeddings of known waves."""

import math

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.methods._lib.heads.score_shares import PARTS, ScoreShares, centred, shuffled
from residscope.methods.weights.positions import fourier

N = 24


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=drawn(seed), dtype=torch.float64)


def shares_of(make, prompts=5):
    into = ScoreShares(N, prompts, 1, 3, drawn())
    for prompt in range(prompts):
        into.add(make(prompt)[None], torch.ones(N, N).tril().bool())
    found, chance, alone = into.shares()
    return (
        dict(zip(PARTS, found[:, 0].tolist(), strict=True)),
        dict(zip(PARTS, chance[:, 0].tolist(), strict=True)),
        float(alone),
    )


OFFSET = torch.arange(N)[:, None] - torch.arange(N)[None]


def test_a_score_of_the_offset_alone():
    f = normal(2 * N, seed=1)
    found, chance, alone = shares_of(lambda prompt: f[OFFSET] + normal(N, 1, seed=prompt))
    assert found["offset"] == pytest.approx(1)
    assert max(found[part] for part in ("place", "key", "pair")) < 1e-9
    assert chance["offset"] < 0.05
    assert 0.5 < alone <= 1


def test_alibi_s_slope_is_of_the_offset_and_a_place_s_slope_is_no_other():
    found, _, alone = shares_of(lambda prompt: -0.5 * OFFSET.double())
    assert found["offset"] == pytest.approx(1)
    assert alone == pytest.approx(0, abs=1e-9)  # a slope over keys says the same


def test_a_score_of_what_the_key_holds():
    found, chance, _ = shares_of(lambda prompt: normal(1, N, seed=prompt).expand(N, N))
    assert found["pair"] == pytest.approx(0, abs=1e-9)
    assert found["key"] > 0.6
    assert found["place"] == pytest.approx(chance["place"], abs=0.1)  # of five prompts some is left by chance
    assert found["offset"] < 0.1
    one, _, _ = shares_of(lambda prompt: normal(1, N, seed=prompt).expand(N, N), prompts=1)
    assert one["place"] == 0
    assert one["offset"] + one["key"] == pytest.approx(1)


def test_a_score_of_the_key_s_place():
    p = normal(1, N)
    found, chance, _ = shares_of(lambda prompt: p.expand(N, N))
    assert found["place"] > 0.8
    assert chance["place"] < 0.5 * found["place"]
    assert found["key"] == pytest.approx(0, abs=1e-9)


def test_a_score_of_pairs_and_that_the_parts_sum():
    found, chance, _ = shares_of(lambda prompt: normal(N, N, seed=prompt))
    assert sum(found.values()) == pytest.approx(1)
    assert found["offset"] == pytest.approx(chance["offset"], abs=0.03)
    assert found["key"] == pytest.approx(chance["key"], abs=0.05)
    still, _, _ = shares_of(lambda prompt: normal(N, 1, seed=prompt).expand(N, N))
    assert all(map(math.isnan, still.values()))


def test_the_same_as_plain_least_squares():
    y, pairs = normal(N, N), torch.ones(N, N).tril().bool()
    query, key = pairs.nonzero().unbind(1)
    values, one = y[query, key], torch.nn.functional.one_hot
    blocks = [one(query, N), one(query - key, N), one(key, N)]
    rest = []
    for upto in (1, 2, 3):
        X = torch.cat(blocks[:upto], 1).double()
        rest.append(float((values - X @ torch.linalg.pinv(X) @ values).square().sum()))
    found, _, _ = shares_of(lambda prompt: y, prompts=1)
    assert found["offset"] == pytest.approx((rest[0] - rest[1]) / rest[0])
    assert found["key"] == pytest.approx((rest[1] - rest[2]) / rest[0])


def test_keys_are_shuffled_within_their_query():
    query = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3])
    order = shuffled(query, drawn())
    assert sorted(order.tolist()) == list(range(9))
    assert query[order].tolist() == query.tolist()
    assert order.tolist() != list(range(9))
    assert float(centred(normal(9), query)[:3].sum()) == pytest.approx(0)


def test_a_position_embedding_of_two_waves():
    t = torch.arange(64)[:, None] * 2 * math.pi / 64
    W = (
        5 * torch.cat([torch.cos(4 * t), torch.sin(4 * t)], 1) @ torch.eye(2, 12)
        + torch.cos(9 * t) @ torch.eye(12)[5:6]
        + 3
    )
    period, peak, S = fourier(W)
    assert period[:3].tolist() == pytest.approx([16, 16, 64 / 9])
    assert peak[:3].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert int((S > 1e-3).sum()) == 3


PROMPTS = [torch.randint(4, 90, (14,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(3)]


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "gemma2", "bloom", "phi", "toy, shortformer"])
def test_every_family(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    found = rs.positions(model, PROMPTS, draws=1)
    assert found.shares.values.shape == (4, model.n_layers, model.n_heads)
    torch.testing.assert_close(found.shares.values.sum(0), torch.ones(model.n_layers, model.n_heads))
    learned = model.layout.family.positions in ("added", "beside")
    assert (found.spectrum is not None) == learned
    assert bool(len(found.wavelengths)) == (model.layout.family.positions == "rotary")
    if learned:
        assert float(found.power.sum()) == pytest.approx(1, abs=1e-5)
        assert found.few() > 1
    assert found.view().title.startswith("Positions")


def test_a_head_whose_scores_are_alibi_s_and_one_that_is_blind():
    model = rs.load((FAMILIES["bloom"].build().float(), None))
    with torch.no_grad():
        model.hf.transformer.h[1].self_attention.query_key_value.weight.zero_()
        model.hf.transformer.h[1].self_attention.query_key_value.bias.zero_()
    found = rs.positions(model, PROMPTS, draws=1)
    assert found.shares.select(part="offset", layer=1).values.tolist() == pytest.approx([1] * 4)
    profile = found.profile.values[1, 0]
    assert bool((profile[:12].diff() < 0).all())
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with torch.no_grad():
        model.hf.transformer.h[1].attn.c_attn.weight.zero_()
        model.hf.transformer.h[1].attn.c_attn.bias.zero_()
    found = rs.positions(model, PROMPTS, draws=1)
    assert found.blanks == 4 * model.n_heads


def test_it_refuses_what_has_no_pairs():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with pytest.raises(errors.PromptError, match="two keys"):
        rs.positions(model, [[5, 6]])


def test_previous_token_heads_of_the_real_model(smollm2):
    prompts = rs.draw_prompts(smollm2, "english", 2, length=24, progress=False)
    found = rs.positions(smollm2, prompts, draws=1)
    assert (16, 0) in [(layer, head) for layer, head, _ in found.top(n=8)]
    assert int(found.profile.values[16, 0].nan_to_num().argmax()) == 1
    assert float(found.chance.select(part="offset").values.mean()) < 0.1
