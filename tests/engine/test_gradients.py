"""Gradients of a readout at every site of every family, against differences; and nothing is left behind."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.checks import Write
from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from tiny_models import hook_count

METRIC = rs.logit_diff(5, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_is_the_slope_of_the_readout(name, ids):
    model = Model(FAMILIES[name].build(), name=name)
    names = [n for n in model.sites.names if n not in ("logits", "embed", "router")]
    rec, grads = gradients(model, ids, METRIC, names)
    generator = torch.Generator().manual_seed(0)
    size = 1e-4 if "router" in model.sites.names else 1e-3  # a larger step changes which experts are chosen
    for site in [s for s in grads if s.layer in (None, 1)]:
        value, gradient = rec[site], grads[site]
        assert gradient.shape == value.shape
        step = (
            torch.randn(value.shape, generator=generator, dtype=value.dtype) * value.abs().clamp(max=10).mean() * size
        )
        if site.name == "scores":
            step = torch.where(value < -1e4, 0, step)
        above, below = (METRIC(model.run(ids, ["logits"], edits=[Write(site, value + s * step)])) for s in (1, -1))
        slope, said = (above - below) / 2, (gradient * step).flatten(1).sum(1)
        close = {"rtol": 1e-2, "atol": 3e-7 + 2e-3 * float(slope.abs().max())}
        torch.testing.assert_close(said.double(), slope.double(), **close)
    assert hook_count(model.hf) == 0
    assert all(w.grad is None for w in model.hf.parameters())


def test_a_gradient_goes_through_the_runs_edits(llama, ids):
    frozen = [edits.freeze("attn_out.2"), edits.freeze("mlp_out.2"), edits.ablate("resid_pre.3")]
    _, grads = gradients(llama, ids, METRIC, ["resid_pre.1", "mlp_out.3"], edits=frozen)
    assert not grads[rs.Site("resid_pre", 1)].any()  # what stands behind it was cut
    assert grads[rs.Site("mlp_out", 3)].any()


def test_a_readout_that_does_not_depend_on_the_run_has_no_gradient(llama, ids):
    class Constant:
        sites = ("resid_pre.0",)

        def __call__(self, rec):
            return torch.ones(len(rec.tokens))

    with pytest.raises(errors.NoGradient, match="does not depend"):
        gradients(llama, ids, Constant(), ["resid_pre.0"])
