"""Quantised models: the forward pass as it is, and nothing that takes their weights for numbers."""

import pytest
import torch
from torch import nn

import residscope as rs
from residscope import directions, edits
from residscope.engine.certificate import measure
from residscope.engine.model import Model
from residscope.errors import AbsentSite, QuantisedModel
from tiny_models import tiny_llama

IDS = [[5, 9, 2, 7, 7, 3]]


class Int8Linear(nn.Module):
    """A layer as GPTQ's and AWQ's are: whole numbers and scales in buffers, no `weight`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scales", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.qweight.to(x) * self.scales.to(x)).T


def by_hand(*, unembedding: bool = False) -> nn.Module:
    hf = tiny_llama().float()
    for name, module in list(hf.named_modules()):
        if isinstance(module, nn.Linear) and (unembedding or name != "lm_head"):
            hf.set_submodule(name, Int8Linear(module))
    hf.config.quantization_config = {"quant_method": "gptq", "bits": 8}
    return hf.eval()


def by_torchao() -> nn.Module:
    torchao = pytest.importorskip("torchao.quantization")
    hf = tiny_llama().float()
    hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach().clone())
    torchao.quantize_(hf.model.layers, torchao.Int8WeightOnlyConfig())
    hf.config.quantization_config = {"quant_method": "torchao"}
    return hf


QUANTISED = {"gptq": by_hand, "torchao": by_torchao}


@pytest.fixture(params=QUANTISED)
def model(request):
    return rs.load((QUANTISED[request.param](), None))


def test_the_run_is_the_stock_models_and_certified(model):
    with torch.no_grad():
        stock = model.hf(torch.tensor(IDS)).logits
    full = Model(tiny_llama().float()).run(IDS)
    run = model.run(IDS, list(model.sites.names))
    torch.testing.assert_close(run.logits, stock, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.lens(run["resid_post.3"]), stock, rtol=1e-5, atol=1e-5)
    assert model.certificate.passed
    assert float((run.logits - full.logits).abs().max()) > 1e-4  # it is quantised indeed
    torch.testing.assert_close(model.run(IDS)["mlp_post.2"], run["mlp_post.2"], rtol=1e-4, atol=1e-5)


def test_edits_at_sites_do_what_the_stock_model_does_under_the_same_hook(model):
    run = model.run(IDS, ["logits"], edits=[edits.scale("mlp_out.1", 3.0)])
    handle = model.hf.model.layers[1].mlp.register_forward_hook(lambda module, args, out: out * 3)
    try:
        with torch.no_grad():
            expected = model.hf(torch.tensor(IDS)).logits
    finally:
        handle.remove()
    torch.testing.assert_close(run.logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run.logits, model.run(IDS).logits)


def test_weights_as_numbers_and_gradients_are_refused(model):
    assert model.quantised in QUANTISED
    with pytest.raises(AbsentSite, match=r"z W_O, and W_O is quantised \((gptq|torchao)\)"):
        model.run(IDS, ["result.1"])
    with pytest.raises(QuantisedModel, match=r"gradients needs the weights in full.*quantised by.*full-precision"):
        model.require_exact_weights("gradients")


def test_an_unembedding_left_in_full_is_read_and_a_quantised_one_refused():
    full = Model(tiny_llama().float())
    left = Model(by_hand())
    torch.testing.assert_close(left.W_U, full.W_U)
    torch.testing.assert_close(directions.unembedding(left, 7).read, directions.unembedding(full, 7).read)
    without = Model(by_hand(unembedding=True))
    with pytest.raises(QuantisedModel, match=r"weight as numbers.*Int8Linear"):
        _ = without.W_U
    with pytest.raises(QuantisedModel):
        directions.unembedding(without, 7)
    assert measure(without).passed


def test_a_model_in_full_is_refused_nothing():
    full = Model(tiny_llama().float())
    assert full.quantised is None
    full.require_exact_weights("gradients")
    assert full.run(IDS, ["result.1"])["result.1"].shape == (1, 6, 4, 32)


def test_recordings_know_the_quantised_weights(model, tmp_path):
    run = model.run(IDS)
    rs.save_recording(run, tmp_path / "run")
    found = rs.load_recording(tmp_path / "run", model)
    torch.testing.assert_close(found["z.2"], run["z.2"])
    other = Model(by_hand(unembedding=True))
    assert other.fingerprint() != model.fingerprint()
    with pytest.raises(rs.errors.WrongModel):
        rs.load_recording(tmp_path / "run", other)
