"""Folders that bring their own Python code: refused by name until they are trusted, then looked at like any other."""

import json
import sys

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.errors import RemoteCodeRefused
from residscope.model import opening, weights
from tiny_models import VOCAB, shaken

CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class OwnConfig(PreTrainedConfig):
    model_type = "own"

    def __init__(self, vocab=97, width=32, depth=3, heads=4, **rest):
        self.vocab, self.width, self.depth, self.heads, self.vocab_size = vocab, width, depth, heads, vocab
        super().__init__(**rest)


class Mix(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, width = config.heads, config.width
        self.ask, self.key, self.tell = (nn.Linear(width, width) for _ in range(3))
        self.join = nn.Linear(width, width)

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.ask(x)), split(self.key(x)), split(self.tell(x))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        pattern = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.join((pattern @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first, self.second = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.mix, self.wide = Mix(config), nn.Linear(config.width, 3 * config.width)
        self.narrow = nn.Linear(3 * config.width, config.width)

    def forward(self, x):
        x = x + self.mix(self.first(x))
        return x + self.narrow(torch.relu(self.wide(self.second(x))))


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.tok = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.end, self.out = nn.LayerNorm(config.width), nn.Linear(config.width, config.vocab, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.tok

    def get_output_embeddings(self):
        return self.out

    def forward(self, input_ids, past_key_values=None, use_cache=False, **rest):
        x = self.tok(input_ids)
        for layer in self.layers:
            x = layer(x)
        return CausalLMOutput(logits=self.out(self.end(x)))
"""
IDS = [[5, 9, 2, 7, 11, 3]]
NAMES = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    path = tmp_path / "own"
    path.mkdir()
    space: dict = {"__name__": "own"}
    exec(CODE, space)  # the same code, to make the weights with
    torch.manual_seed(0)
    shaken(space["OwnModel"](space["OwnConfig"]())).float().save_pretrained(path)
    config = json.loads((path / "config.json").read_text()) | {"auto_map": NAMES, "model_type": "own"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{CODE}")
    return path


def test_it_is_refused_and_its_file_named(folder, tmp_path):
    with pytest.raises(RemoteCodeRefused, match=r"modeling_own\.py \(OwnModel\).*trust_remote_code=True") as refused:
        rs.load(str(folder))
    assert not (tmp_path / "ran").exists()
    body = refused.value.to_dict()
    assert "modeling_own.py" in body["message"]
    assert (
        body["fix"]
        == f"whoever started this server reads that code and trusts it: RESIDSCOPE_TRUST={folder} residscope"
    )


def test_it_is_looked_at_like_any_other(folder):
    model = rs.load(str(folder), trust_remote_code=True)
    assert model.family.found
    assert model.certificate.passed
    assert (model.n_layers, model.n_heads, model.d_mlp, model.d_vocab) == (3, 4, 96, VOCAB)
    with torch.no_grad():
        stock = model.hf(torch.tensor(IDS)).logits
    run = model.run(IDS, ["resid_mid", "pattern", "mlp_post", "logits"])
    torch.testing.assert_close(run.logits, stock, rtol=1e-5, atol=1e-5)
    mix = model.hf.layers[1].mix.join
    handle = mix.register_forward_hook(lambda module, args, out: out * 0)
    try:
        with torch.no_grad():
            expected = model.hf(torch.tensor(IDS)).logits
    finally:
        handle.remove()
    changed = model.run(IDS, edits=[edits.ablate("attn_out.1")]).logits
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(changed, stock, rtol=1e-2, atol=1e-2)


def test_one_is_trusted_by_name_for_commands_and_the_page(folder, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_TRUST", "another/model")
    with pytest.raises(RemoteCodeRefused):
        opening.open_source(weights.resolve(str(folder)))
    monkeypatch.setenv("RESIDSCOPE_TRUST", f"another/model, {folder}")
    hf, _ = opening.open_source(weights.resolve(str(folder)))
    assert type(hf).__name__ == "OwnModel"


def test_the_fingerprint_is_of_the_code_too(folder):
    before = weights.fingerprint(folder)
    (folder / "modeling_own.py").write_text(CODE.replace("relu", "tanh"))
    assert weights.fingerprint(folder) != before
