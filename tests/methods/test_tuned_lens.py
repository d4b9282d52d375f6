"""The tuned lens: as its definition by hand, nearer to the run's own next token than the plain one, read from files."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from readers import TEXTS, reader
from safetensors.torch import load_file

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.methods._lib.translators import Translators
from residscope.methods._lib.tuned import TunedLens
from tiny_models import tiny_llama

PEER = Path(__file__).parent / "peers" / "tuned-lens"
PROMPT = [5, 9, 3, 17, 8, 2, 11]


@pytest.fixture(scope="module")
def model():
    return reader()


@pytest.fixture(scope="module")
def lens(model):
    return rs.tuned_lens(model, TEXTS, tokens=1200, steps=3, progress=False)


def by_hand(hf, ids, lens):
    """Hidden states of transformers itself, each translated, normed and unembedded; behind the last block nothing is added."""
    with torch.no_grad():
        out = hf(torch.tensor([ids]), output_hidden_states=True)
        for layer, x in enumerate(out.hidden_states[:-1]):
            moved = x[0] + torch.nn.functional.linear(x[0], lens.weight[layer].to(x), lens.bias[layer].to(x))
            yield hf.lm_head(hf.model.norm(moved)).log_softmax(-1), out.logits[0].log_softmax(-1)


def test_a_row_is_translated_normed_and_unembedded(model, lens):
    found = rs.logit_lens(model, PROMPT, k=3, lens=lens, progress=False)
    plain = rs.logit_lens(model, PROMPT, k=3, progress=False)
    for row, (logits, end) in enumerate(by_hand(model.hf, PROMPT, lens)):
        kl = (end.exp() * (end - logits)).sum(-1)
        torch.testing.assert_close(found.kl[row], kl.float(), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(found.probability[row], logits.exp().topk(3).values.float(), atol=1e-5, rtol=1e-3)
    assert (found.kl[:-1] - plain.kl[:-1]).abs().max() > 1e-3
    torch.testing.assert_close(found.kl[-1], plain.kl[-1])
    before = rs.logit_lens(model, PROMPT, site="resid_pre", lens=lens, progress=False)
    torch.testing.assert_close(before.kl, found.kl[:-1])


def test_it_is_nearer_to_the_end_than_the_plain_lens_on_text_that_it_has_not_read(model, lens):
    plain, tuned = lens.kl.values
    assert (tuned < 0.9 * plain).all()
    assert len(lens.loss) == 3


def test_on_another_model_of_its_sizes_it_is_no_nearer(lens):
    """The control: translators know their own model's coordinates, and are no matter of sizes alone."""
    other = Model(tiny_llama(seed=5))
    through, plain = (rs.logit_lens(other, PROMPT, lens=one, progress=False).kl[:-1].mean() for one in (lens, None))
    assert through > plain


def test_least_squares_find_a_planted_end_and_adam_lowers_the_kl(model):
    """Streams whose end is an affine map of them: the map is found, whatever the deviations; a wrong start is improved on."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 32, generator=draw) * torch.logspace(-2, 2, 32) + 3
    A, b = torch.randn(32, 32, generator=draw) / torch.logspace(-2, 2, 32), torch.randn(32, generator=draw)
    end = x + x @ A.T + b
    trained = Translators([x[:100]])
    for part in range(0, 4000, 500):
        trained.add([x[part : part + 500]], end[part : part + 500])
    trained.solve()
    weight, bias = trained.folded()
    assert (x + x @ weight[0].T + bias[0] - end).norm() < 2e-3 * (end - x).norm()

    trained = Translators([x])
    losses = [trained.step(model, [x[:64]], end[:64], 3e-2) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_training_is_the_same_again_and_another_with_another_seed(model, lens):
    again = rs.tuned_lens(model, TEXTS, tokens=1200, steps=3, progress=False)
    assert torch.equal(again.weight, lens.weight)
    other = rs.tuned_lens(model, TEXTS, tokens=1200, steps=3, seed=1, progress=False)
    assert not torch.equal(other.weight, lens.weight)
    assert not any(p.grad is not None for p in model.hf.parameters())


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox"])
def test_other_families_train_with_their_own_norm_scale_and_cap(name):
    model = rs.load((FAMILIES[name].build().float(), reader().tokenizer))
    lens = rs.tuned_lens(model, TEXTS, tokens=800, steps=2, progress=False)
    assert (lens.kl.values[1] < lens.kl.values[0]).all()


def test_it_is_a_file_and_comes_back(model, lens, tmp_path):
    lens.save(tmp_path / "lens.safetensors")
    assert rs.load_tuned_lens(model, str(tmp_path / "lens.safetensors")) == lens
    assert rs.load_item(tmp_path / "lens.safetensors") == lens


@pytest.fixture
def folder(tmp_path):
    """As the package writes it: a state dict of a ModuleList of Linear, and its configuration."""
    torch.manual_seed(0)
    translators = torch.nn.ModuleList([torch.nn.Linear(32, 32) for _ in range(4)])
    torch.save(translators.state_dict(), tmp_path / "params.pt")
    config = {
        "base_model_name_or_path": "some/model", "d_model": 32, "num_hidden_layers": 4, "bias": True,
        "base_model_revision": None, "unembed_hash": "ab", "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, translators, config


def test_a_folder_of_tuned_lens_is_read(model, folder):
    path, translators, _ = folder
    lens = rs.load_tuned_lens(model, str(path))
    x = torch.randn(5, 32)
    for layer, linear in enumerate(translators):
        torch.testing.assert_close(lens.translated(x, layer), x + linear(x).detach())
    assert torch.equal(lens.translated(x, 4), x)
    assert lens.kl is None
    torch.testing.assert_close(lens.table.select(part="A", layer=2).values, translators[2].weight.norm().detach())
    assert lens.provenance["base_model_name_or_path"] == "some/model"


def test_what_tuned_lens_itself_wrote_gives_its_own_logits():
    """Written by tuned-lens 0.2.0 for tiny_llama(), with what its lens said of a prompt at each layer."""
    model = rs.load((tiny_llama().float(), None))
    lens = rs.load_tuned_lens(model, str(PEER))
    found = rs.logit_lens(model, PROMPT, site="resid_pre", k=5, lens=lens, progress=False)
    for layer, logits in load_file(PEER / "expected.safetensors").items():
        best = logits.softmax(-1).topk(5)
        torch.testing.assert_close(found.probability[int(layer)], best.values, atol=1e-6, rtol=1e-4)
        assert torch.equal(found.top[int(layer)], best.indices)


class Runs:
    def __reduce__(self):
        return print, ("code was run",)


def test_what_is_no_such_lens_is_refused_by_what_is_wrong(model, folder, capsys):
    path, translators, config = folder
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(errors.DamagedFile, match=r"3\.bias"):
        rs.load_tuned_lens(model, str(path))
    (path / "config.json").write_text(json.dumps(config | {"lens_type": "other"}))
    with pytest.raises(errors.DamagedFile, match="lens_type"):
        rs.load_tuned_lens(model, str(path))
    (path / "config.json").write_text(json.dumps(config))
    bad = translators.state_dict()
    bad["2.weight"] = bad["2.weight"] / 0
    torch.save(bad, path / "params.pt")
    with pytest.raises(errors.DamagedFile, match=r"2\.weight"):
        rs.load_tuned_lens(model, str(path))
    (path / "params.pt").write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(errors.DamagedFile, match="state dict"):
        rs.load_tuned_lens(model, str(path))
    assert "code was run" not in capsys.readouterr().out
    (path / "params.pt").unlink()
    with pytest.raises(errors.FileNotThere):
        rs.load_tuned_lens(model, str(path))


def test_a_lens_of_other_sizes_and_a_place_without_translators_are_refused(model, lens):
    other = TunedLens(torch.zeros(3, 32, 32), torch.zeros(3, 32))
    with pytest.raises(errors.WrongModel, match="other sizes"):
        rs.logit_lens(model, PROMPT, lens=other, progress=False)
    with pytest.raises(errors.BadArguments, match="resid_mid"):
        rs.logit_lens(model, PROMPT, site="resid_mid", lens=lens, progress=False)
    with pytest.raises(errors.TextTooShort, match="last step"):
        rs.tuned_lens(model, TEXTS[:20], tokens=300, steps=50, progress=False)
    broken = torch.full((5, 32), float("nan"))
    with pytest.raises(errors.TrainingDiverged, match="smaller rate"):
        Translators([broken]).step(model, [broken], broken, 1e-3)
