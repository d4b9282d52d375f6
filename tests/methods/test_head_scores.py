"""Head scores: against plain loops over the stock model's own attention; what is left out; on a model that has such heads."""

import math

import pytest
import torch
from families import FAMILIES
from labelled import labelled

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.engine.sinks import kept
from residscope.methods._lib.attention_scores import KINDS, attention_scores
from residscope.methods.heads import head_scores as module

ROWS = [[3, 9, 9, 4, 3, 9, 5, 4, 3], [8, 8, 2, 8, 7, 2]]


def sources(kind, tokens, i):
    """The keys that a score is about, for one query."""
    earlier = [j for j in range(1, i) if tokens[j - 1] == tokens[i]]
    return {
        "previous-token": [i - 1], "current-token": [i], "first-token": [0],
        "duplicate-token": [j for j in range(i) if tokens[j] == tokens[i]], "induction": earlier,
    }[kind]  # fmt: skip


def expected(pattern, tokens, kind, keep):
    """One head's score of one prompt, by loops; keep[i]: neither first nor a sink."""
    shares = []
    for i in range(len(tokens)):
        js = [j for j in sources(kind, tokens, i) if kind == "first-token" or keep[j]]
        if keep[i] and js:
            shares.append(sum(float(pattern[i, j]) for j in js))
    return sum(shares) / len(shares) if shares else math.nan


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "mistral", "qwen3_moe"])
def test_scores_are_loops_over_the_stock_models_attention(name):
    model = Model(FAMILIES[name].build(), name=name)
    found = rs.head_scores(model, prompts=ROWS, progress=False)
    assert found.scores.dims == ("score", "layer", "head")
    stock = FAMILIES[name].build()
    stock.set_attn_implementation("eager")
    for k, kind in enumerate(KINDS):
        for layer in range(model.n_layers):
            told = []
            for row in ROWS:
                with torch.no_grad():
                    pattern = stock(torch.tensor([row]), output_attentions=True).attentions[layer][0]
                keep = kept(model.run([row]), f"pattern.{layer}")[0].tolist()
                assert not keep[0]
                told.append([expected(pattern[head], row, kind, keep) for head in range(model.n_heads)])
            torch.testing.assert_close(
                found.scores.values[k, layer], torch.tensor(told).double().nanmean(0), atol=1e-5, rtol=1e-5
            )
    assert found.scores.values.max() > 0.3


def test_some_layers_at_a_time_is_all_at_once(llama, monkeypatch):
    whole = rs.head_scores(llama, prompts=ROWS, progress=False)
    monkeypatch.setattr(module, "AT_ONCE", 4 * 81 * 8 * 3)  # the patterns of three layers of one prompt
    parts = rs.head_scores(llama, prompts=ROWS, progress=False)
    torch.testing.assert_close(parts.scores.values, whole.scores.values, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parts.control.values, whole.control.values, atol=1e-6, rtol=1e-6)
    one = attention_scores(llama.run([ROWS[0]], ["pattern"]), ("induction",))
    two = attention_scores(llama.run([ROWS[1]], ["pattern"]), ("induction",))
    torch.testing.assert_close(whole.select(score="induction").values, torch.cat([one, two], -1)[0].double().mean(-1))


def test_sinks_are_no_queries_and_no_keys():
    """A token whose stream is far longer than the others': neither its attention nor what others give it counts."""
    hf = FAMILIES["llama"].build()
    with torch.no_grad():
        hf.model.embed_tokens.weight[50] *= 500
    model = Model(hf, name="sink")
    row = [3, 50, 4, 5, 50, 6]
    assert kept(model.run([row]), "pattern.0")[0].tolist() == [False, False, True, True, False, True]
    found = rs.head_scores(model, prompts=[row], kinds=("current-token", "duplicate-token"), progress=False)
    pattern = model.run([row], ["pattern.0"])["pattern.0"][0]
    mean = torch.stack([pattern[:, i, i] for i in (2, 3, 5)]).mean(0)
    torch.testing.assert_close(found.select(score="current-token").values[0], mean.double())
    assert found.select(score="duplicate-token").values.isnan().all(), "the only copy is a sink's"
    assert found.provenance["prompts with such tokens"] == {"current-token": 1, "duplicate-token": 0}
    assert found.scores.low is None


def test_repeated_tokens_are_written_twice_and_no_two_alike(llama, smollm2):
    for model in (llama, smollm2):
        data = rs.repeated_tokens(model, n=4, length=12, seed=3)
        assert len(data) == 4
        for row in data.prompts:
            assert row[:12] == row[12:]
            assert len({*row}) == 12
        assert data.prompts == rs.repeated_tokens(model, n=4, length=12, seed=3).prompts
        assert data.prompts != rs.repeated_tokens(model, n=4, length=12, seed=4).prompts
    texts = smollm2.token_texts(data.prompts[0])
    assert all(any(c.isalnum() for c in text) for text in texts)
    begun = Model(smollm2.hf, smollm2.tokenizer, bos=True)
    first = rs.repeated_tokens(begun, n=1, length=5).prompts[0]
    assert first[0] == smollm2.tokenizer.bos_token_id
    assert first[1:6] == first[6:]


def test_refusals(llama):
    with pytest.raises(errors.BadSweep, match=r"no such score.*induction"):
        rs.head_scores(llama, kinds=("name-movers",), progress=False)
    with pytest.raises(errors.TooFewWords, match="common tokens"):
        rs.head_scores(llama, length=200, progress=False)
    with pytest.raises(errors.PromptTooLong):
        rs.head_scores(llama, length=60, progress=False)


def test_intervals_are_over_prompts(llama):
    found = rs.head_scores(llama, n=6, length=8, kinds=KINDS[:3], progress=False)
    scores, control = found.scores, found.control
    assert scores.low is not None
    assert (scores.low <= scores.values).all()
    assert (scores.high >= scores.values).all()
    assert (scores.high > scores.low).any()
    assert (control.low <= control.values).all()
    assert (control.high >= control.values).all()
    assert [view.title for view in found.view().views][1:4] == [f"score {kind}" for kind in KINDS[:3]]
    assert rs.head_scores(llama, prompts=labelled(4), progress=False).provenance["prompts"] == 4


def test_the_default_model_has_induction_heads_and_they_find_no_copies_where_there_are_none(smollm2):
    found = rs.head_scores(smollm2, n=4, length=30, progress=False)
    best = {kind: float(found.select(score=kind).values.max()) for kind in KINDS}
    assert best["induction"] > 0.7
    assert best["previous-token"] > 0.7
    layer, head = divmod(int(found.select(score="induction").values.argmax()), smollm2.n_heads)
    ids = rs.repeated_tokens(smollm2, n=1, length=60).prompts[0][:60]  # no token twice
    apart = rs.head_scores(smollm2, prompts=[ids], progress=False)
    assert apart.select(score="induction").values.isnan().all()
    pattern = smollm2.run([ids], [f"pattern.{layer}"])[f"pattern.{layer}"][0, head]
    same_place = torch.stack([pattern[i, i - 29] for i in range(31, 60)]).mean()  # where the copies would have been
    assert float(same_place) < 0.05
