"""Models that read images or sound beside text: their text decoder is served, and the rest refused in words."""

import pytest
import torch
from transformers import AutoModelForMultimodalLM, PaliGemmaConfig

import residscope as rs
from residscope import edits
from residscope.errors import BadPrompt, DamagedModel, UnknownFamily
from residscope.model import tiny
from tiny_models import shaken

IDS = [[5, 9, 2, 7, 11, 3]]
TYPES = ("gemma3", "llava", "llama4", "qwen3_vl", "voxtral")


def built(kind: str) -> torch.nn.Module:
    config = tiny.shrink(tiny.default_config(kind))
    torch.manual_seed(0)
    hf = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32, experts_implementation="eager")
    return shaken(hf).float()


@pytest.mark.parametrize("kind", TYPES)
def test_a_folder_is_served_as_its_text_decoder(kind, tmp_path):
    hf = built(kind)
    hf.save_pretrained(tmp_path / "model")
    model = rs.load(str(tmp_path / "model"))
    assert type(model.hf) is type(hf)
    assert model.certificate.passed
    assert model.n_layers == hf.config.get_text_config().num_hidden_layers
    assert model.d_mlp > 0
    assert {"resid_pre", "resid_post", "attn_out", "mlp_out", "z", "pattern"} <= set(model.sites.names)
    with torch.no_grad():
        stock = hf(input_ids=torch.tensor(IDS)).logits
    run = model.run(IDS, ["resid_post", "logits"])
    torch.testing.assert_close(run.logits, stock, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.lens(run[f"resid_post.{model.n_layers - 1}"]), stock, rtol=1e-4, atol=1e-4)


def test_edits_are_those_of_a_hook_on_the_stock_model():
    hf = built("gemma3")
    model = rs.load((hf, None))
    writer = hf.model.language_model.layers[1].post_feedforward_layernorm
    handle = writer.register_forward_hook(lambda module, args, out: out * 3)
    try:
        with torch.no_grad():
            expected = hf(input_ids=torch.tensor(IDS)).logits
    finally:
        handle.remove()
    changed = model.run(IDS, edits=[edits.scale("mlp_out.1", 3.0)]).logits
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(changed, model.run(IDS).logits, rtol=1e-2, atol=1e-2)


def test_images_are_refused_in_words():
    model = rs.load((built("llava"), None))
    (image,) = model.layout.placeholders
    pixels = {"input_ids": torch.tensor(IDS), "pixel_values": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(BadPrompt, match=r"images and sound are not taken.*keys pixel_values.*without its images"):
        model.run(pixels)
    with pytest.raises(BadPrompt, match=rf"stands for an image.*token id {image}, 2 times.*leave out"):
        model.run([[5, image, image, 7]])


def test_a_model_that_reads_its_prompt_both_ways_is_refused():
    with pytest.raises(UnknownFamily, match="depend on the tokens after it"):
        rs.load((built(PaliGemmaConfig.model_type), None))


def test_a_model_that_cannot_do_without_an_image_is_refused():
    with pytest.raises(UnknownFamily, match=r"does not run over token ids alone.*pixel_values"):
        rs.load((built("blip-2"), None))


def test_a_part_that_is_missing_is_missed(tmp_path):
    from safetensors.torch import load_file, save_file

    built("llava").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in tensors if "vision" in name))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DamagedModel, match="lack"):
        rs.load(str(tmp_path))
