"""Loading: tiny models saved here, every way they can be damaged, and the default model once."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import residscope as rs
from residscope.errors import DamagedModel, ModelError, ModelNotFound, RemoteCodeRefused, UnknownFamily
from residscope.model import catalog, gguf_files, opening, weights
from residscope.model.catalog import CATALOG, DEFAULT, Entry, Wheel
from tiny_gguf import gguf_of

IOI = "When John and Mary went to the store, John gave a bottle of milk to"
TEXTS = (
    "Hello  world\n\n\tx  ",
    " a\r\nb",
    "日本語 é 🙂 \u0301\u200d",
    "1984 12,345\n\n1. x  2",
    "",
    "\x00\x7f",
    "don't  ",
)


def tiny_llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(sizes | heads | changes))).eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))
    tiny_llama().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_several_threads_load_tied_models_whole(tmp_path):
    tied = tiny_llama(tie_word_embeddings=True, vocab_size=30_000, num_hidden_layers=8)
    tied.save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: rs.load(str(tmp_path), progress=lambda *_: None), range(8)))
    ids = torch.arange(10)[None]
    for model in models:
        torch.testing.assert_close(model.hf(ids).logits, tied(ids).logits, rtol=0, atol=0)


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_folder_is_loaded_as_saved(folder):
    source = weights.resolve(str(folder))
    hf, tokenizer = opening.open_source(source)
    ids = torch.arange(10)[None]
    assert tokenizer is None
    assert not hf.training
    torch.testing.assert_close(hf(ids).logits, tiny_llama()(ids).logits, rtol=0, atol=0)
    half, _ = opening.open_source(source, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_fingerprint_follows_the_contents(folder):
    before = weights.fingerprint(folder)
    change(folder / "config.json", transformers_version="9.9")
    assert weights.fingerprint(folder) == before
    change(folder / "config.json", rms_norm_eps=1e-3)
    renamed = weights.fingerprint(folder)
    assert renamed != before
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert weights.fingerprint(folder) not in (before, renamed)


def test_fingerprint_reads_a_file_once(folder, monkeypatch):
    first = weights.fingerprint(folder)
    monkeypatch.setattr(catalog, "sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert weights.fingerprint(folder) == first


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.0001])
def test_truncated_weights(folder, keep):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DamagedModel, match=r"model\.safetensors is (truncated|damaged)"):
        weights.resolve(str(folder))


def test_weights_that_are_not_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!and more")
    with pytest.raises(DamagedModel, match=r"model\.safetensors is damaged"):
        weights.resolve(str(folder))


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(DamagedModel, match=r"config\.json is missing"):
        weights.resolve(str(folder))


def test_broken_config(folder):
    (folder / "config.json").write_text('{"model_type": "llama"')
    with pytest.raises(DamagedModel, match=r"config\.json cannot be read"):
        weights.resolve(str(folder))


def test_missing_shard(folder):
    shards = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(DamagedModel, match=r"model-00002-of-00002\.safetensors is missing"):
        weights.resolve(str(folder))


@pytest.mark.parametrize(
    ("changed", "said"), [("lacking", "lack model.norm.weight"), ("spare", "hold.*model.norm.bias")]
)
def test_tensors_that_do_not_fit(folder, changed, said):
    tensors = load_file(folder / "model.safetensors")
    if changed == "lacking":
        del tensors["model.norm.weight"]
    else:
        tensors["model.norm.bias"] = torch.zeros(32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DamagedModel, match=said):
        opening.open_source(weights.resolve(str(folder)))


def test_tensors_of_another_shape(folder):
    change(folder / "config.json", intermediate_size=48)
    with pytest.raises(DamagedModel, match="cannot be read"):
        opening.open_source(weights.resolve(str(folder)))


def test_pickle_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(DamagedModel, match=r"no safetensors weights.*pytorch_model\.bin.*save_pretrained"):
        weights.resolve(str(folder))


def test_remote_code_is_refused(folder, tmp_path):
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RemoteCodeRefused, match="trust_remote_code=True"):
        opening.open_source(weights.resolve(str(folder)))
    assert not (tmp_path / "ran").exists()


def test_unknown_family(folder):
    change(folder / "config.json", model_type="no-such-family")
    with pytest.raises(UnknownFamily, match="no-such-family"):
        opening.open_source(weights.resolve(str(folder)))


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DamagedModel, match="tokenizer"):
        opening.open_source(weights.resolve(str(folder)))


def test_no_such_device(folder):
    with pytest.raises(ModelError, match="no such device"):
        opening.open_source(weights.resolve(str(folder)), device="abacus")


@pytest.mark.parametrize("name", ["", "smollm2", "./nowhere", "/no/such/folder", "a/b/c", "../x"])
def test_names_of_nothing(name):
    with pytest.raises(ModelNotFound, match="no model of that name"):
        weights.resolve(name)


def test_removing(folder):
    with pytest.raises(ModelNotFound, match="not in the cache"):
        weights.remove(DEFAULT)
    with pytest.raises(ModelNotFound, match="not a model of the cache"):
        weights.remove(str(folder))
    assert weights.cached(str(folder))
    assert not weights.cached(DEFAULT)
    assert weights.size(DEFAULT) == 0
    kept = catalog.model_folder(CATALOG[DEFAULT])
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_bytes(b"12345")
    assert weights.cached(DEFAULT)
    assert weights.remove(DEFAULT) == 5
    assert not kept.exists()


def test_conversion_keeps_the_model(tmp_path):
    hf = tiny_llama()
    gguf_of(hf, tmp_path / "tiny.gguf")
    told = []
    wheel = Wheel("tiny==1", file="", member="", sha256="", size=0, split_digits=True)
    entry = Entry("tiny", "", wheel=wheel)
    gguf_files.convert(tmp_path / "tiny.gguf", tmp_path / "made", entry=entry, progress=lambda *step: told.append(step))
    assert told[-1] == ("convert", 3, 3)
    source = weights.Source("tiny", tmp_path / "made", None, "")
    made, tokenizer = opening.open_source(source)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(made(ids).logits, hf(ids).logits)
    assert len(tokenizer(" 1").input_ids) == 2  # digits stand alone: the merge "Ġ 1" never joins
    assert tokenizer.decode(tokenizer(TEXTS[0]).input_ids) == TEXTS[0]


@pytest.fixture(scope="session")
def default():
    """The default model out of the user's own cache; the first use fetches it."""
    source = weights.resolve(DEFAULT)
    return source, *opening.open_source(source)


def test_default_model_is_the_one_published(default):
    source, hf, tokenizer = default
    config = hf.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (30, 576, 9)
    assert (config.num_key_value_heads, config.intermediate_size, config.vocab_size) == (3, 1536, 49152)
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.rms_norm_eps == pytest.approx(1e-5)
    assert config.max_position_embeddings == tokenizer.model_max_length == 8192
    assert hf.lm_head.weight is hf.model.embed_tokens.weight
    assert not hasattr(config, "quantization_config")
    assert hf.dtype == torch.float32
    assert len(source.fingerprint) == 64


def test_default_model_knows_who_gets_the_milk(default):
    _, hf, tokenizer = default
    ids = tokenizer(IOI, return_tensors="pt").input_ids
    assert ids.tolist() == [[2427, 2322, 284, 5099, 3514, 288, 260, 4249, 28, 2322, 4502, 253, 10765, 282, 4788, 288]]
    with torch.no_grad():
        p = hf(ids).logits[0, -1].softmax(-1)
    assert p[tokenizer(" Mary").input_ids[0]].item() == pytest.approx(0.93, abs=0.01)
    corrupted = tokenizer(IOI.replace("John gave", "Mary gave"), return_tensors="pt").input_ids
    with torch.no_grad():
        assert hf(corrupted).logits[0, -1].argmax() == tokenizer(" John").input_ids[0]


def test_default_tokenizer(default):
    _, _, tokenizer = default
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("\n\n1. a  2").input_ids] == ["\n\n", "1", ".", " a", "  ", "2"]
    specials = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    assert {name: getattr(tokenizer, name) for name in specials} == specials
    assert tokenizer("a").input_ids[0] != tokenizer.bos_token_id
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_loading_takes_the_memory_of_the_weights(default):
    """Peak resident memory over what the imports take, in a process of its own; every weight is touched."""
    source = default[0]
    code = f"""
import torch, transformers.models.llama.modeling_llama
from pathlib import Path
from residscope.model.opening import open_source
from residscope.model.weights import Source
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1e3
before = status("VmRSS")
hf, tokenizer = open_source(Source("x", Path({str(source.path)!r}), None, ""))
sum(float(p.detach().sum()) for p in hf.parameters())
print(status("VmHWM") - before)
"""
    path = str(Path(weights.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    tokenizer_and_code = 120  # megabytes: the vocabulary, and modules imported on the way
    assert float(run.stdout) <= 1.1 * weights.size(DEFAULT) / 1e6 + tokenizer_and_code
