"""Two models on one prompt, against the stock models' own hidden states, attentions and logits."""

import pytest
import torch

import residscope as rs
from methods.two import pair
from residscope.engine.model import Model
from residscope.errors import BadSweep, OtherModel
from tiny_models import tiny_llama

PROMPT = [[3, 14, 15, 9, 26, 5]]


@pytest.fixture(scope="module")
def two():
    return pair("llama")


def stock(model):
    """Hidden states before the final norm, attentions and logits, as transformers gives them."""
    hf = model.hf
    was = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    kept = []
    handle = hf.model.norm.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    with torch.no_grad():
        out = hf(torch.tensor(PROMPT), output_hidden_states=True, output_attentions=True)
    handle.remove()
    hf.set_attn_implementation(was)
    return torch.stack([*out.hidden_states[:-1], kept[0]])[:, 0].double(), [a[0] for a in out.attentions], out.logits[0]


def test_every_number_is_the_stock_models(two):
    base, other = two
    found = rs.compare_models(base, other, PROMPT, metric=rs.logit_diff(5, 7))
    (x, patterns, p), (y, others, q) = stock(base), stock(other)
    cosine = (x * y).sum(-1) / x.norm(dim=-1) / y.norm(dim=-1)
    assert torch.allclose(found.cosine.values.double(), cosine, atol=1e-5)
    assert torch.allclose(found.change.values.double(), (y - x).norm(dim=-1) / x.norm(dim=-1), atol=1e-5)
    moved = torch.stack([(b - a).abs().sum(-1).mean(-1) / 2 for a, b in zip(patterns, others, strict=True)])
    assert torch.allclose(found.patterns.values.double(), moved.double(), atol=1e-5)
    P, Q = p.double().softmax(-1), q.double().softmax(-1)
    assert torch.allclose(found.kl.values.double(), (P * (P / Q).log()).sum(-1), atol=1e-5)
    for text, own, theirs, difference in found.next.rows:
        id = int(text.strip("<>"))
        assert (own, theirs) == pytest.approx((P[-1, id].item(), Q[-1, id].item()), abs=1e-5)
        assert difference == pytest.approx(theirs - own, abs=1e-9)


def test_heads_are_compared_by_their_direct_effects(two):
    metric = rs.logit_diff(5, 7)
    found = rs.compare_models(*two, PROMPT, metric=metric)
    own, theirs = (rs.direct_attribution(model, PROMPT, metric).heads.values for model in two)
    assert torch.allclose(found.heads.values, (theirs - own).float(), atol=1e-6)


def test_a_model_beside_itself(two):
    found = rs.compare_models(two[0], two[0], PROMPT)
    assert float(found.change.values.abs().max()) == 0
    assert float(found.kl.values.abs().max()) < 1e-12
    assert found.heads is None


def test_what_it_refuses(two):
    with pytest.raises(BadSweep, match="one prompt"):
        rs.compare_models(*two, [[1, 2], [3, 4]])
    with pytest.raises(OtherModel):
        rs.compare_models(two[0], Model(tiny_llama(layers=2)), PROMPT)


def test_a_file_gives_it_back(two, tmp_path):
    found = rs.compare_models(*two, PROMPT, metric=rs.logit_diff(5, 7))
    found.save(tmp_path / "two.safetensors")
    assert rs.Report.load(tmp_path / "two.safetensors") == found
    found.view().to_dict()
