"""LoRA adapters: merged as PEFT merges them, named, hashed, and refused where they are of something else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import residscope as rs
from residscope.errors import DamagedModel, ModelNotFound, WrongAdapter
from residscope.model.adapters import SHIPPED, find_adapter, merge, parted
from residscope.model.catalog import CATALOG, DEFAULT, model_folder
from tiny_models import tiny_llama

LORA = SHIPPED / "repeated-name"
PROMPT = "When John and Mary went to the store, John gave a bottle of milk to"


@pytest.fixture(scope="module")
def tuned():
    return rs.load(DEFAULT, adapter="repeated-name")


def test_the_merged_model_is_pefts(tuned):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder(CATALOG[DEFAULT]), dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(base, str(LORA)).merge_and_unload().eval()
    own, theirs = tuned.hf.state_dict(), merged.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.allclose(own[name], theirs[name], rtol=0, atol=1e-7) for name in own)
    ids = tuned.tokens(PROMPT)
    with torch.no_grad():
        expected = merged(ids).logits
    assert torch.allclose(tuned.run(PROMPT, ["logits"]).logits, expected, rtol=0, atol=1e-3)


def test_what_it_has_learnt(tuned, smollm2):
    """The base names the one that is said once, the adapter's model the one that is said twice."""
    answers = rs.logit_diff(" Mary", " John")
    assert answers(smollm2.run(PROMPT, ["logits"])).item() > 1
    assert answers(tuned.run(PROMPT, ["logits"])).item() < -1


def test_name_hash_and_certificate(tuned, smollm2):
    assert tuned.name == "smollm2-135m+repeated-name"
    assert tuned.certificate.passed
    assert tuned.hash != smollm2.hash
    again = rs.load(tuned.name)
    assert again.hash == tuned.hash


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2", ("gpt2", None)),
        ("gpt2+lora", ("gpt2", "lora")),
        ("owner/base@main+owner/lora", ("owner/base@main", "owner/lora")),
        ("+lora", ("+lora", None)),
    ],
)
def test_names_with_a_plus(name, parts):
    assert parted(name) == parts


def test_a_folder_whose_name_has_a_plus_is_a_folder(tmp_path):
    (tmp_path / "a+b").mkdir()
    assert parted(str(tmp_path / "a+b")) == (str(tmp_path / "a+b"), None)


def written(folder: Path, **changed: object) -> Path:
    """A copy of the shipped adapter with other words in its config."""
    shutil.copytree(LORA, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changed))
    return folder


@pytest.mark.parametrize(
    "changed", [{"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}]
)
def test_other_adapters_are_refused(tmp_path, changed):
    with pytest.raises(WrongAdapter, match=next(iter(changed)) if "bias" not in changed else "biases"):
        find_adapter(str(written(tmp_path / "lora", **changed)))


def test_an_adapter_of_another_model_is_refused():
    with pytest.raises(WrongAdapter, match="another model"):
        merge(tiny_llama(), find_adapter("repeated-name"))


def test_half_a_pair_is_refused(tmp_path):
    folder = written(tmp_path / "lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(WrongAdapter, match="half"):
        merge(tiny_llama(), find_adapter(str(folder)))


def test_an_adapter_that_is_not_there(tmp_path):
    with pytest.raises(ModelNotFound, match="repeated-name"):
        find_adapter("no-such-adapter")
    with pytest.raises(DamagedModel, match="adapter_config"):
        find_adapter(str(tmp_path))


def test_patterns_and_rank_stabilisation_give_pefts_weights(tmp_path):
    """Ranks and alphas of their own at some modules, on a tiny model whose adapter PEFT itself writes."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = tiny_llama().float()
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], use_rslora=True, init_lora_weights=False,
        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"down_proj": 7},
    )  # fmt: skip
    wrapped = peft.get_peft_model(base, config)
    wrapped.save_pretrained(tmp_path / "lora")
    expected = wrapped.merge_and_unload().state_dict()
    torch.manual_seed(0)
    own = tiny_llama().float()
    merge(own, find_adapter(str(tmp_path / "lora")))
    assert all(torch.allclose(own.state_dict()[name], expected[name], atol=1e-6) for name in expected)
