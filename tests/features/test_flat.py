"""Dictionaries that read all heads' vectors end to end: their atlas, pages and removal against a plain look."""

import pytest
import torch

import residscope as rs
from residscope import features
from residscope.directions import EncoderDictionary
from residscope.engine.sinks import kept
from residscope.features.held_out import halves, with_inactive
from residscope.features.search import values_on

SITE = "z.2"
TOKENS = 1_500


@pytest.fixture(scope="module")
def sae(smollm2):
    width = smollm2.n_heads * smollm2.d_head
    write = torch.nn.functional.normalize(torch.randn(32, width, generator=torch.Generator().manual_seed(1)), dim=1)
    x = smollm2.run("The quick brown fox jumps over the lazy dog.", [SITE])[SITE][0, 1:].flatten(-2)
    mean = x.mean(0)
    return EncoderDictionary(
        "sae", SITE, write, write, mean=mean, bias=torch.full((32,), -0.05), base=mean, activation="relu"
    )


@pytest.fixture(scope="module")
def atlas(smollm2, sae):
    return features.gather(smollm2, "python-docs", sae, tokens=TOKENS, k=4, progress=False)


@pytest.fixture(scope="module")
def brute(smollm2, atlas, sae):
    """[(row, pos, activations)] of every token that is kept, each row run by itself, the heads laid end to end by hand."""
    found = []
    for row in range(len(atlas.text.starts)):
        record = smollm2.run(atlas.text.row(row), [SITE])
        z = record[SITE][0]
        x = torch.cat([z[:, head] for head in range(smollm2.n_heads)], dim=-1)
        a = torch.relu((x - sae.mean) @ sae.read.T + sae.bias)
        found += [(row, pos, a[pos]) for pos in kept(record, SITE)[0].nonzero()[:, 0].tolist()]
    return found


def test_its_counts_and_highest_are_a_plain_look_s(atlas, brute):
    values = torch.stack([a for *_, a in brute])
    assert atlas.firing.count == len(values)
    torch.testing.assert_close(atlas.density, (values > 0).double().mean(0))
    torch.testing.assert_close(atlas.highest.nan_to_num(0), values.amax(0), atol=1e-4, rtol=1e-4)
    index = int(atlas.highest.nan_to_num(0).argmax())
    best = values[:, index].argsort(descending=True, stable=True)[:4]
    assert [*zip(atlas.top.row[index].tolist(), atlas.top.pos[index].tolist(), strict=True)] == [
        brute[i][:2] for i in best.tolist()
    ]


def test_its_page_shows_tokens_and_what_taking_it_out_does(smollm2, atlas, sae):
    index = int(atlas.highest.nan_to_num(0).argmax())
    page = features.page(smollm2, atlas, index, sae, effects=False, progress=False)
    assert page.address == f"sae/{smollm2.name}/{SITE}/{index}"
    W_O = smollm2.hf.model.layers[2].self_attn.o_proj.weight.detach().float()
    gain = smollm2.hf.model.norm.weight.detach().float()
    rows = smollm2.hf.get_output_embeddings().weight.detach().float()
    move = W_O @ sae.write[index]
    id, _, cosine = page.tokens.top[0]
    assert cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(rows[id] * gain, move, dim=0)), abs=1e-4)
    one = page.shown[0]
    found = features.effects(smollm2, atlas, index, [(one.row, one.pos)], sae)
    ids = atlas.text.row(one.row)[: one.pos + 1]
    before = smollm2.run([ids]).logits[0, -1].log_softmax(-1)

    def without(module, args):
        z = args[0].clone()
        x = z[0, -1]
        activation = torch.relu((x - sae.mean) @ sae.read[index] + sae.bias[index])
        z[0, -1] = x - activation * sae.write[index]
        return (z, *args[1:])

    handle = smollm2.hf.model.layers[2].self_attn.o_proj.register_forward_pre_hook(without)
    try:
        after = smollm2.hf(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    finally:
        handle.remove()
    kl = float((before.exp() * (before - after)).sum())
    assert float(found.kl[0]) == pytest.approx(kl, abs=1e-4)


def test_it_is_found_by_a_text_and_named_like_others(smollm2, atlas, sae, brute):
    text = "Return the list of modules"
    record = smollm2.run(text, [SITE])
    x = record[SITE][0].flatten(-2)[kept(record, SITE)[0]]
    expected = torch.relu((x - sae.mean) @ sae.read.T + sae.bias).amax(0)
    torch.testing.assert_close(values_on(smollm2, atlas, text, sae), expected, atol=1e-4, rtol=1e-4)
    index = int(atlas.density.argmin())
    part = with_inactive(smollm2, atlas, sae, {index: halves(smollm2, atlas, index, 6)}, seed=0, tell=lambda *_: None)
    assert len(part[index].active) == len(part[index].inactive)


def test_a_harvest_of_its_columns_too(smollm2, sae, brute):
    found = rs.harvest(smollm2, "python-docs", [rs.statistics.Firing(sae)], tokens=TOKENS, progress=False)
    (firing,) = found.results.values()
    torch.testing.assert_close(firing.density, torch.stack([a > 0 for *_, a in brute]).double().mean(0))
