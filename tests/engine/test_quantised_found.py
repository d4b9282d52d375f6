"""Quantised models whose family is found by looking: the stock quantised forward, edited exactly; what it cannot be, refused."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    OlmoConfig,
    OlmoForCausalLM,
    QuantoConfig,
    TorchAoConfig,
)

import residscope as rs
from residscope import edits
from residscope.errors import AbsentSite, CertificateFailed, QuantisedModel

IDS = [[5, 9, 2, 7, 11, 3]]


class Int4Linear(nn.Module):
    """A layer as GPTQ's and AWQ's are: two whole numbers to a byte, scales and zeros in buffers, no `weight`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        scale = (high - low) / 15
        whole = ((weight - low) / scale).round().to(torch.uint8)
        self.register_buffer("qweight", whole[:, ::2] | whole[:, 1::2] << 4)
        self.register_buffer("scales", scale)
        self.register_buffer("zeros", low)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.stack([self.qweight & 15, self.qweight >> 4], -1).flatten(1)
        return x @ (whole.to(x) * self.scales + self.zeros).T


def full() -> nn.Module:
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=97, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    hf = OlmoForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.mul_(3 if "layers" in name else 10)
    return hf


def by_hand(folder):
    hf = full()
    for name, module in list(hf.named_modules()):
        if isinstance(module, nn.Linear):  # the unembedding too
            hf.set_submodule(name, Int4Linear(module))
    hf.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    return hf


def loaded(folder, config):
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu").eval()


def by_bitsandbytes_8(folder):
    pytest.importorskip("bitsandbytes")
    return loaded(folder, BitsAndBytesConfig(load_in_8bit=True))


def by_bitsandbytes_4(folder):
    pytest.importorskip("bitsandbytes")
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    return loaded(folder, BitsAndBytesConfig(load_in_4bit=True, **four))


def by_torchao(folder):
    torchao = pytest.importorskip("torchao.quantization")
    return loaded(folder, TorchAoConfig(torchao.Int8WeightOnlyConfig()))


def by_torchao_fp8(folder):
    torchao = pytest.importorskip("torchao.quantization")
    return loaded(folder, TorchAoConfig(torchao.Float8WeightOnlyConfig()))


def by_quanto(folder):
    pytest.importorskip("optimum.quanto")
    return loaded(folder, QuantoConfig(weights="int8"))


QUANTISED = {
    "gptq": by_hand,
    "bitsandbytes, 8": by_bitsandbytes_8,
    "bitsandbytes, 4": by_bitsandbytes_4,
    "torchao": by_torchao,
    "torchao, fp8": by_torchao_fp8,
    "quanto": by_quanto,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "olmo"
    full().save_pretrained(path)
    return str(path)


def logits_of(hf):
    with torch.no_grad():
        return hf(torch.tensor(IDS)).logits


@pytest.mark.parametrize("kind", QUANTISED)
def test_it_is_found_and_edited_as_the_stock_model(kind, folder):
    hf = QUANTISED[kind](folder)
    stock = logits_of(hf)
    model = rs.load((hf, None))
    assert model.family.found
    assert model.certificate.passed
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_mlp, model.d_vocab) == (2, 4, 2, 256, 97)
    in_full = rs.load(folder)
    missing = {*in_full.sites.names} - {*model.sites.names}
    assert missing == {"result"}
    torch.testing.assert_close(logits_of(hf), stock, rtol=0, atol=0)  # looking changed nothing
    run = model.run(IDS)
    torch.testing.assert_close(run.logits, stock, rtol=1e-5, atol=1e-4)
    assert float((stock - in_full.run(IDS).logits).abs().max()) > 1e-3  # it is quantised indeed
    handle = hf.model.layers[1].mlp.register_forward_hook(lambda module, args, out: out * 3)
    try:
        expected = logits_of(hf)
    finally:
        handle.remove()
    changed = model.run(IDS, edits=[edits.scale("mlp_out.1", 3.0)])
    torch.testing.assert_close(changed.logits, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(changed.logits, stock, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", QUANTISED)
def test_its_weights_are_no_numbers_and_known_by_their_scales(kind, folder):
    hf = QUANTISED[kind](folder)
    model = rs.load((hf, None))
    with pytest.raises(AbsentSite, match="z W_O, and W_O is quantised"):
        model.run(IDS, ["result.1"])
    with pytest.raises(QuantisedModel, match="needs the weights in full"):
        model.require_exact_weights("gradients")
    again = rs.load((hf, None))
    assert again.hash == model.hash == rs.load((QUANTISED[kind](folder), None)).hash


def test_two_that_differ_in_scales_alone_are_two(folder):
    hf = by_bitsandbytes_4(folder)
    before = rs.load((hf, None)).hash
    hf.model.layers[0].mlp.down_proj.weight.quant_state.absmax.mul_(2)
    assert rs.load((hf, None)).hash != before


def test_a_method_that_rounds_activations_is_refused_in_words(folder):
    torchao = pytest.importorskip("torchao.quantization")
    hf = loaded(folder, TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig()))
    with pytest.raises(
        CertificateFailed, match=r"quantised by torchao: a method that rounds activations too.*weights alone"
    ):
        rs.load((hf, None))


def test_a_quantised_folder_is_loaded_as_it_was_saved(folder, tmp_path):
    hf = by_bitsandbytes_8(folder)
    hf.save_pretrained(tmp_path / "eight")
    model = rs.load(str(tmp_path / "eight"))
    assert model.quantised == "bitsandbytes"
    torch.testing.assert_close(model.run(IDS).logits, logits_of(hf), rtol=1e-3, atol=1e-3)
