"""GGUF files by their path: read with their weights as they are kept, certified, or refused in words."""

import copy

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import quants

import residscope as rs
from residscope.errors import DamagedModel, ModelError, ModelNotFound, UnknownFamily
from residscope.model import weights
from tiny_gguf import gguf_of

WRITTEN = ("BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1")  # gguf's package writes these, and Q8_0
IDS = [[5, 9, 2, 7, 11, 3]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))


def tiny(width: int = 32, layers: int = 2):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, vocab_size=300, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def q8_0(x):
    """Whole numbers of eight bits, 32 to a scale of sixteen."""
    return quants.quantize(x, Kind.Q8_0), Kind.Q8_0


def q8_0_as_numbers(x):
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    whole = np.round(blocks / scale)
    return (whole * scale.astype(np.float16).astype(np.float32)).reshape(x.shape)


def six_bits(x):
    """Whole numbers from -32 to 31, 256 to a scale: what Q6_K keeps, each sixteen times a factor of one."""
    blocks = x.reshape(-1, 256)
    scale = (np.abs(blocks).max(1, keepdims=True) / 31).astype(np.float16)
    return np.clip(np.round(blocks / scale.astype(np.float32)), -32, 31), scale


def q6_k(x):
    whole, scale = six_bits(x)
    q = (whole + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # block, half, quarter of a half, place
    low = np.stack([(q[:, :, 0] & 15) | (q[:, :, 2] & 15) << 4, (q[:, :, 1] & 15) | (q[:, :, 3] & 15) << 4], 2)
    high = sum((q[:, :, i] >> 4) << (2 * i) for i in range(4))
    ones = np.ones((len(q), 16), np.uint8)
    raw = np.concatenate([low.reshape(len(q), 128), high.reshape(len(q), 64), ones, scale.view(np.uint8)], 1)
    return raw.reshape(x.shape[0], -1), Kind.Q6_K


def q6_k_as_numbers(x):
    whole, scale = six_bits(x)
    return (whole * scale.astype(np.float32)).reshape(x.shape).astype(np.float32)


def with_weights(hf, numbers):
    """The same model, the matrices of its blocks as their quantised form has them."""
    other = copy.deepcopy(hf)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "layers" in name and weight.ndim == 2:
                weight.copy_(torch.from_numpy(numbers(weight.numpy())))
    return other


@pytest.mark.parametrize(
    ("pack", "numbers", "width"), [(q8_0, q8_0_as_numbers, 32), (q6_k, q6_k_as_numbers, 256)], ids=["Q8_0", "Q6_K"]
)
def test_the_weights_are_those_that_the_file_keeps(pack, numbers, width, tmp_path):
    hf = tiny(width, layers=1)
    gguf_of(hf, tmp_path / "tiny.gguf", pack)
    model = rs.load(str(tmp_path / "tiny.gguf"))
    assert model.certificate.passed
    assert model.quantised is None
    with torch.no_grad():
        expected, full = (m(torch.tensor(IDS)).logits for m in (with_weights(hf, numbers), hf))
    logits = model.run(IDS).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert float((logits - full).abs().max()) > 1e-5  # it is quantised indeed


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_type_that_is_written_is_read(kind, tmp_path):
    hf, kind = tiny(), Kind[kind]
    gguf_of(hf, tmp_path / "tiny.gguf", lambda x: (quants.quantize(x, kind), kind))
    read, _ = weights_of(tmp_path / "tiny.gguf")
    for name, weight in hf.named_parameters():
        step = float(weight.detach().abs().max()) / 7
        assert float((read.get_parameter(name) - weight).detach().abs().max()) <= step, name


def weights_of(path):
    from residscope.model.opening import open_source

    return open_source(weights.resolve(str(path)))


def test_a_folder_with_one_is_that_one_and_a_second_load_makes_nothing(tmp_path):
    gguf_of(tiny(), tmp_path / "tiny.gguf")
    source = weights.resolve(str(tmp_path))
    _, tokenizer = weights_of(tmp_path)
    assert tokenizer.decode(tokenizer("milk").input_ids) == "milk"
    made = {file: file.stat().st_mtime_ns for file in source.path.iterdir()}
    assert weights.resolve(str(tmp_path / "tiny.gguf")).fingerprint == source.fingerprint
    assert made == {file: file.stat().st_mtime_ns for file in source.path.iterdir()}
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"several GGUF files.*other\.gguf, tiny\.gguf"):
        weights.resolve(str(tmp_path))


def test_without_a_tokenizer_it_takes_token_ids(tmp_path):
    gguf_of(tiny(), tmp_path / "tiny.gguf", tokenizer=False)
    hf, tokenizer = weights_of(tmp_path / "tiny.gguf")
    assert tokenizer is None
    with torch.no_grad():
        torch.testing.assert_close(hf(torch.tensor(IDS)).logits, tiny()(torch.tensor(IDS)).logits)


def test_what_cannot_be_read_is_refused_and_leaves_nothing(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_of(tiny(), path, architecture="rwkv7")
    with pytest.raises(UnknownFamily, match=r"no GGUF file of the architecture 'rwkv7'.*llama"):
        weights.resolve(str(path))
    gguf_of(tiny(), path, without="blk.1.ffn_up")
    with pytest.raises(DamagedModel, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        weights.resolve(str(path))
    gguf_of(tiny(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DamagedModel, match="no whole GGUF file"):
        weights.resolve(str(path))
    eights = 292  # bytes of a Q8_K block of 256
    gguf_of(tiny(256, layers=1), path, lambda x: (np.zeros((len(x), x.shape[1] // 256 * eights), np.uint8), Kind.Q8_K))
    with pytest.raises(ModelError, match=r"type that cannot be read.*of type Q8_K.*Q6_K"):
        weights.resolve(str(path))
    models = tmp_path / "cache" / "models"
    assert not [each for each in models.iterdir() if each.suffix != ".lock"]
