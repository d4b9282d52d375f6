"""How an induction head finds its token: on heads set by hand in either way, by plain loops, and on the default model."""

import pytest
import torch
from planted_heads import AGAINST, BY_KEYS, BY_QUERIES, DUPLICATE, PREVIOUS, planted

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.methods.heads import induction_mechanism as module
from tiny_models import tiny_gpt2


@pytest.fixture(scope="module")
def by_hand():
    return planted()


@pytest.fixture(scope="module")
def told(by_hand):
    return {
        at: rs.induction_mechanism(by_hand, *at, n=5, length=14, draws=4, progress=False)
        for at in (BY_KEYS, BY_QUERIES, AGAINST)
    }


def test_each_planted_head_has_the_mechanism_that_was_planted(told):
    assert [told[at].verdict for at in told] == ["K-composition", "pointer arithmetic", "K-composition"]
    for at, side, group in ((BY_KEYS, 0, 0), (BY_QUERIES, 1, 1)):
        found = told[at]
        assert found.members == {"previous-token": (PREVIOUS,), "duplicate-token": (DUPLICATE,)}
        own = float(found.groups.values[group, side])
        assert own > 0.9
        assert float(found.groups.values.abs().sum()) - own < 0.02, (
            "nothing else, nor the other side, tells it anything"
        )
        assert float(found.control.high.abs().max()) < 0.02
        assert float(found.lost.values[side, 0, (PREVIOUS, DUPLICATE)[group][1]]) == pytest.approx(own)
    assert told[BY_KEYS].moved == pytest.approx({"keys": 1, "queries": 0}, abs=0.02)
    assert told[BY_QUERIES].moved == pytest.approx({"keys": 0, "queries": 1}, abs=0.02)
    assert float(told[BY_KEYS].attention.values[:, 2].max()) < 0.02, "never elsewhere"


def test_the_heads_that_tell_it_taken_away_leave_no_induction(by_hand):
    """A planted fault: without the previous-token head's write there is nothing to find."""
    model = planted()
    with torch.no_grad():
        model.hf.transformer.h[0].attn.c_proj.weight[: model.d_head] = 0
    found = rs.induction_mechanism(model, *BY_KEYS, n=4, length=14, draws=3, progress=False)
    assert found.verdict == "no induction head"
    assert (
        rs.induction_mechanism(model, *BY_QUERIES, n=4, length=14, draws=3, progress=False).verdict
        == "pointer arithmetic"
    )


def test_numbers_are_those_of_the_stock_modules_by_hand():
    """Queries and keys of GPT-2 as its own modules give them: patched ones, and keys read without one head's write."""
    model = Model(tiny_gpt2(), name="gpt2")
    n, length, layer, head, sender = 3, 8, 2, 1, (1, 3)
    found = rs.induction_mechanism(model, layer, head, n=n, length=length, draws=2, seed=5, progress=False)
    clean, other, places = module._data(model, n, length, 5)
    hf, d = model.hf, model.d_model
    block, below = hf.transformer.h[layer], hf.transformer.h[sender[0]]
    seen = {}
    handles = [
        block.ln_1.register_forward_pre_hook(lambda m, args: seen.__setitem__("x", args[0][0])),
        block.attn.c_attn.register_forward_hook(lambda m, args, out: seen.__setitem__("qkv", out[0])),
        below.attn.c_proj.register_forward_pre_hook(lambda m, args: seen.__setitem__("z", args[0][0])),
    ]
    rows = []
    with torch.no_grad():
        for ids in (*clean.prompts, *other.prompts):
            hf(torch.tensor([ids]))
            rows.append(dict(seen))
    for handle in handles:
        handle.remove()
    size = 2 * length
    own = slice(head * model.d_head, (head + 1) * model.d_head)
    sent = slice(sender[1] * model.d_head, (sender[1] + 1) * model.d_head)
    future = torch.ones(size, size, dtype=torch.bool).triu(1)

    def looked(q, k, row):
        scores = (q[:, own] @ k[:, own].T) / model.d_head**0.5
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        queries = torch.stack([place[row].any(-1) for place in places]).all(0)
        return torch.stack([pattern[queries][place[row][queries]].mean() for place in places])

    mean = torch.cat([row["z"][1:, sent] for row in rows[:n]]).mean(0)  # the first token is left as it is
    patched, without = torch.zeros(4, 3).double(), torch.zeros(2).double()
    for row in range(n):
        (q, k, _), (q2, k2, _) = (rows[at]["qkv"].split(d, -1) for at in (row, row + n))
        pairs = [(q, k), (q, k2), (q2, k), (q2, k2)]
        patched += torch.stack([looked(*pair, row) for pair in pairs]) / n
        change = torch.zeros(size, model.d_head).double()
        change[1:] = mean - rows[row]["z"][1:, sent]
        x = rows[row]["x"] + change @ below.attn.c_proj.weight[sent]
        with torch.no_grad():
            new_q, new_k, _ = block.attn.c_attn(block.ln_1(x[None]))[0].split(d, -1)
        before = looked(q, k, row)[0]
        without += torch.stack([before - looked(q, new_k, row)[0], before - looked(new_q, k, row)[0]]) / n
    torch.testing.assert_close(found.attention.values, patched, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(found.lost.values[:, sender[0], sender[1]], without, atol=1e-8, rtol=1e-6)
    assert without.abs().max() > 1e-4


def test_the_other_order_has_each_copy_where_it_says(by_hand):
    clean, other, places = module._data(by_hand, 4, 9, 1)
    for row, (ids, turned) in enumerate(zip(clean.prompts, other.prompts, strict=True)):
        assert ids[9:] == turned[9:]
        assert sorted(ids[:9]) == sorted(turned[:9])
        assert ids[:9] != turned[:9]
        for place, prompt in zip(places[:2], (ids, turned), strict=True):
            for query, key in place[row].nonzero().tolist():
                assert prompt[key - 1] == prompt[query]
                assert prompt[key] == prompt[query + 1]
        for query, key in places[2][row].nonzero().tolist():
            assert prompt[key - 1] != prompt[query]
            assert ids[key - 1] != ids[query]


def test_the_default_models_induction_head_composes_with_its_previous_token_head(smollm2):
    found = rs.induction_mechanism(smollm2, 18, 6, n=2, length=8, draws=2, progress=False)
    assert found.verdict == "K-composition"
    assert found.moved["keys"] > 0.7
    assert found.moved["queries"] < 0.1
    keys = found.lost.select(side="keys").values
    assert divmod(int(keys.argmax()), smollm2.n_heads) == (16, 0)
    assert (16, 0) in found.members["previous-token"]
    assert float(found.groups.values[0, 0]) > float(found.control.high[0, 0]) + 0.3
    assert "not in this model's stream" in found.note
    assert "K-composition" in found.view().title


def test_refusals(by_hand):
    with pytest.raises(errors.BadArguments, match="first layer"):
        rs.induction_mechanism(by_hand, 0, 1, progress=False)
    with pytest.raises(errors.BadArguments, match="6 or more"):
        rs.induction_mechanism(by_hand, 1, 1, length=5, progress=False)
    with pytest.raises(errors.UnknownHead):
        rs.induction_mechanism(by_hand, 1, 3, progress=False)
    with pytest.raises(errors.UnknownLayer):
        rs.induction_mechanism(by_hand, 2, 0, progress=False)
    with pytest.raises(errors.PromptTooLong):
        rs.induction_mechanism(by_hand, 1, 0, length=35, progress=False)
