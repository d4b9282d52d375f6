"""A norm that stands at both ends: behind the embedding and in front of the unembedding, one module called twice."""

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.engine.tried import found
from residscope.model import tiny

IDS = [5, 9, 3, 17, 8, 2]


@pytest.fixture(scope="module")
def model():
    made, certificate = found(tiny.build(tiny.variants("nanochat")["default"], dtype=torch.float64), "nanochat")
    assert certificate.passed
    return made


@pytest.fixture(scope="module")
def direction():
    return torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def hooked(model, call: int, change) -> torch.Tensor:
    """The stock logits, one call's output of the norm changed by a plain hook."""
    calls = []

    def after(_module, _args, output):
        calls.append(output)
        return change(output) if len(calls) == call + 1 else None

    handle = model.hf.model.norm.register_forward_hook(after)
    try:
        with torch.no_grad():
            return model.hf(torch.tensor([IDS]), use_cache=False).logits
    finally:
        handle.remove()
        assert len(calls) == 2


def test_embed_is_the_normed_embedding(model):
    rec = model.run(IDS, ["embed", "final_norm", "final_scale"])
    raw = model.hf.model.embed_tokens(torch.tensor([IDS])).detach()
    torch.testing.assert_close(
        rec["embed"],
        raw / (raw.pow(2).mean(-1, keepdim=True) + model.hf.config.rms_norm_eps).sqrt(),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(rec["embed"], rec["resid_pre.0"])
    last = rec[f"resid_post.{model.n_layers - 1}"]
    torch.testing.assert_close(rec["final_norm"] * rec["final_scale"], last, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("site", "call"), [("embed", 0), ("final_norm", 1)])
def test_an_edit_acts_at_its_own_end(model, direction, site, call):
    edit = edits.steer(site, direction, 1.0)
    told = model.run(IDS, ["logits"], edits=[edit]).logits
    moved = model.run(IDS, [site], edits=[edit])[site] - model.run(IDS, [site])[site]
    assert float(moved.norm()) > 0.1
    torch.testing.assert_close(told, hooked(model, call, lambda x: x + moved), atol=1e-6, rtol=1e-5)


def test_sweeps_windows_and_generation_go_by_the_same_ends(model, direction):
    cells = [[edits.ablate(f"z.{layer}", head=1)] for layer in range(model.n_layers)]
    metric = rs.logit_diff(5, 7)
    swept = rs.sweep(model, [IDS, IDS[::-1]], cells, metric).run(False).values
    for cell, row in zip(cells, swept, strict=True):
        torch.testing.assert_close(row, metric(model.run([IDS, IDS[::-1]], edits=cell)).to(row), atol=1e-6, rtol=1e-5)
    ids = [*IDS, *model.generate(IDS, max_new_tokens=3, temperature=0.0).ids]
    for end in range(len(IDS), len(IDS) + 3):
        step = int(model.run([ids[:end]], ["logits"]).logits[0, -1].argmax())
        assert step == ids[end]
    told = rs.attribute_logits(model.run(IDS), metric, by="head")
    assert float(told.components.values.sum()) == pytest.approx(float(told.metric.values), abs=1e-5)
