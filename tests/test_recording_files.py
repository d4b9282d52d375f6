"""Recordings in files: the same numbers come back, held or recomputed, and never on other weights."""

import gc
import json

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.engine.model import Model
from residscope.errors import BadEdit, DamagedFile, WeightsChanged, WrongModel
from residscope.files import read_tensors, write_tensors
from residscope.model.sites import Site
from tiny_models import VARIANTS, tiny_llama

RAGGED = [[5, 9, 2, 7, 7, 3], [4, 8, 6, 11]]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def everything(model):
    return [site for name in model.sites.names for site in model.sites.expand(name)]


def kinds_of_edits(model):
    d = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)).double()
    return [
        edits.steer("resid_pre.1", rs.Direction(d, d, "resid_pre.1"), 4.0, pos=1),
        edits.freeze("norms"),
        edits.patch("attn_out.2", [[1, 2, 3, 4, 5, 6]], align={1: 2, 3: 3}),
        edits.ablate("z.1", "mean", over=[[3, 1, 4, 1, 5]], head=1),
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_site_comes_back_held_or_recomputed(name, tmp_path):
    model, again = (Model(VARIANTS[name](), name=name) for _ in range(2))
    run = model.run(RAGGED, edits=kinds_of_edits(model), readout=None)
    plain = model.run(RAGGED)
    rs.save_recording(run, tmp_path / "run")
    found = rs.load_recording(tmp_path / "run", again)
    assert found.sites == model.run(RAGGED).sites
    assert (found.lengths, found.nbytes) == ((6, 4), run.nbytes)
    same(found.tokens, run.tokens)
    for site in everything(model):
        same(found[site], run[site])
    assert not torch.allclose(found.logits, plain.logits)  # the edits are what came back, not only the prompt


def test_a_window_comes_back_with_its_base(tmp_path):
    model = Model(tiny_llama(), name="llama")
    base = model.run(RAGGED, edits=[edits.scale("mlp_out.0", 2.0)])
    once = model.run(RAGGED, window=rs.Window(base, start=1, pos=2), edits=[edits.ablate("z.2", head=1)])
    rs.save_recording(once, tmp_path / "late")
    found = rs.load_recording(tmp_path / "late", model)
    assert (found.offset, found.window.start) == (2, 1)
    same(found.window.base["resid_pre.0"], base["resid_pre.0"])
    for site in ("logits", "z.3", "pattern.1", "k.2"):
        same(found[site], once[site])
    assert not torch.allclose(found.logits, model.run(RAGGED).logits[:, 2:])


def test_a_readout_comes_back(tmp_path):
    model = Model(tiny_llama(), name="llama")
    run = model.run(RAGGED, readout=rs.log_prob(7))
    rs.save_recording(run, tmp_path / "run")
    same(rs.load_recording(tmp_path / "run", model).readout, run.readout)


def test_saving_computes_nothing_more(tmp_path):
    model = Model(tiny_llama(), name="llama")
    run = model.run(RAGGED, capture=["resid_pre.2"])
    rs.save_recording(run, tmp_path / "run")
    assert run.sites == (Site("resid_pre", 2),)
    assert (tmp_path / "run").stat().st_size < run.nbytes + 2000


def test_other_weights_are_refused_with_both_hashes(tmp_path):
    model, other = Model(tiny_llama(), name="mine"), Model(tiny_llama(seed=1), name="theirs")
    rs.save_recording(model.run(RAGGED), tmp_path / "run")
    with pytest.raises(WrongModel, match=rf"mine, hash {model.fingerprint()}.*theirs, hash {other.fingerprint()}"):
        rs.load_recording(tmp_path / "run", other)
    with pytest.raises(WrongModel):
        rs.load_recording(tmp_path / "run", Model(tiny_llama().float(), name="mine"))


def test_weights_written_to_after_loading_have_a_hash_of_their_own(tmp_path):
    model = rs.load((tiny_llama(), None))
    assert model.fingerprint() == model.hash
    before = model.run(RAGGED)
    rs.save_recording(before, tmp_path / "before")
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(2)
    assert model.fingerprint() != model.hash
    with pytest.raises(WeightsChanged, match="whose values these are"):
        rs.save_recording(before, tmp_path / "late")
    with pytest.raises(WrongModel):
        rs.load_recording(tmp_path / "before", model)
    rs.save_recording(model.run(RAGGED), tmp_path / "after")
    rs.load_recording(tmp_path / "after", model)


def test_an_edit_without_a_form_in_json_is_refused(tmp_path):
    from residscope.engine.checks import Write

    model = Model(tiny_llama(), name="llama")
    run = model.run(RAGGED, edits=[Write(Site("resid_pre", 1), torch.zeros(2, 6, 32).double())])
    with pytest.raises(BadEdit, match="cannot be written down"):
        rs.save_recording(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_files_are_refused_by_name(tmp_path):
    model = Model(tiny_llama(), name="llama")
    path = tmp_path / "run.safetensors"
    rs.save_recording(model.run(RAGGED), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DamagedFile, match=r"run\.safetensors"):
            rs.load_recording(path, model)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedFile, match=r"run\.safetensors is damaged"):
        rs.load_recording(path, model)
    rs.Result(torch.zeros(2), ("pos",)).save(path)
    with pytest.raises(DamagedFile, match=r"holds no recording.*result"):
        rs.load_recording(path, model)
    path.write_bytes(whole)
    tensors, about = read_tensors(path, "recording")
    write_tensors(path, "recording", tensors, json.loads(json.dumps(about).replace("lengths", "sizes")))
    with pytest.raises(DamagedFile, match="no recording that can be read"):
        rs.load_recording(path, model)


def test_a_recording_of_the_stream_is_the_streams_bytes(smollm2):
    """30 layers x 1,024 tokens: at most 1.1 of its resid_pre, counted over every tensor that the run has left alive."""
    ids = torch.randint(0, smollm2.d_vocab, (1, 1024), generator=torch.Generator().manual_seed(0))
    before = storages()
    run = smollm2.run(ids)
    stream = smollm2.n_layers * ids.numel() * smollm2.d_model * smollm2.dtype.itemsize
    left = sum(size for place, size in storages().items() if place not in before)
    assert run.nbytes <= 1.1 * stream
    assert stream <= left <= 1.1 * stream
    run["logits"]  # what is asked for is kept, and counted by both
    assert run.nbytes > 3 * stream
    assert sum(size for place, size in storages().items() if place not in before) > 3 * stream


def storages():
    """The memory of every live tensor, each storage counted once."""
    gc.collect()
    held = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}
