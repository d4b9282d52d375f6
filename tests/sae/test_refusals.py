"""Files that are truncated, hostile or untrue: each refused in words, and nothing in them runs."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import residscope as rs
from residscope import errors
from sae.written import D, F, saelens, weights

W = weights()
HAND = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}


class Marks:
    """A pickle whose opening makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["torch", "old torch", "plain pickle", "npz"])
def test_code_in_a_file_is_never_run(tmp_path, how):
    marker, file = tmp_path / "was-run", tmp_path / ("params.npz" if how == "npz" else "ae.pt")
    state = {"encoder.weight": torch.zeros(F, D), "more": Marks(marker)}
    if how == "plain pickle":
        file.write_bytes(pickle.dumps(state))
    elif how == "npz":
        np.savez(file, W_enc=np.array([Marks(marker)], dtype=object))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(errors.DamagedFile, match=file.name):
        rs.sae.load(file)
    assert not marker.exists()
    if how == "plain pickle":  # it would have been: the file is what it claims to be
        pickle.loads(file.read_bytes())
        assert marker.exists()


def test_an_archive_that_would_grow_is_refused_before_it_does(tmp_path):
    with zipfile.ZipFile(tmp_path / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        stream = io.BytesIO()
        np.save(stream, np.zeros((2048, 2048), dtype=np.float32))
        archive.writestr("W_enc.npy", stream.getvalue())
    with pytest.raises(errors.DamagedFile, match="times the file's own size"):
        rs.sae.load(tmp_path)


def test_an_array_that_says_it_is_larger_than_it_is(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", b"\x93NUMPY\x01\x00"[:0] + stream.getvalue() + b"1234")
    with pytest.raises(errors.DamagedFile, match="shape"):
        rs.sae.load(tmp_path)


@pytest.mark.parametrize("header", [2**62, 200 << 20, 40])
def test_a_safetensors_header_that_lies_about_its_length(tmp_path, header):
    saelens(tmp_path, W)
    (tmp_path / "sae_weights.safetensors").write_bytes(struct.pack("<Q", header) + b'{"W_enc":')
    with pytest.raises(errors.DamagedFile, match=r"sae_weights\.safetensors"):
        rs.sae.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json", "ae.pt", "params.npz"])
def test_what_is_truncated(tmp_path, name, share):
    saelens(tmp_path, W)
    if name == "ae.pt":
        tmp_path = tmp_path / "b"
        tmp_path.mkdir()
        state = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"], "decoder.weight": W["W_dec"].T}
        torch.save(state | {"bias": W["b_dec"]}, tmp_path / name)
    elif name == "params.npz":
        tmp_path = tmp_path / "layer_3-gemma-scope-2b-pt-res"
        tmp_path.mkdir()
        np.savez(tmp_path / name, **{k: W[k].numpy() for k in HAND})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(errors.DamagedFile, match=name.replace(".", r"\.")):
        rs.sae.load(tmp_path)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"d_sae": F + 1}, "d_sae 21"), ({"d_in": 7}, "d_in 7"), ({"architecture": "jumprelu"}, "threshold is missing"),
        ({"architecture": "gated"}, "b_mag is missing"), ({"architecture": "topk"}, "takes a k"),
        ({"architecture": "topk", "k": F + 1}, "takes a k"), ({"architecture": "topk", "k": "many"}, "takes a k"),
    ],
)  # fmt: skip
def test_a_configuration_that_lies(tmp_path, cfg, words):
    with pytest.raises(errors.DamagedFile, match=words):
        rs.sae.load(saelens(tmp_path, W, **cfg))


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"architecture": "temporal"}, "temporal"), ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"), ({"hook_head_index": 3}, "head 3"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path, cfg, words):
    with pytest.raises(errors.DirectionError, match=words):
        rs.sae.load(saelens(tmp_path, W, **cfg))


def test_wrong_shapes(tmp_path):
    for part in ("W_enc", "W_dec", "b_enc", "b_dec"):
        wrong = W | {part: W[part][..., :-1].contiguous()}
        with pytest.raises(errors.DamagedFile, match="damaged"):
            rs.sae.load(saelens(tmp_path, wrong, d_in=None, d_sae=None))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value):
    wrong = W["W_dec"].clone()
    wrong[3, 4] = value
    with pytest.raises(errors.NotFinite, match=f"1 of {F * D} in write"):
        rs.sae.load(saelens(tmp_path, W | {"W_dec": wrong}))


def test_no_such_source_and_no_such_format(tmp_path):
    for source in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "nonsense"):
        with pytest.raises(errors.FileNotThere, match="no such dictionary"):
            rs.sae.load(source)
    with pytest.raises(errors.WrongEnding, match="no file of weights"):
        rs.sae.load(tmp_path)
    save_file({"lm_head.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(errors.WrongEnding, match=r"lm_head\.weight.*SAELens.*sparsify.*Gemma Scope"):
        rs.sae.load(tmp_path)


def test_a_dictionary_that_does_not_say_where(tmp_path):
    folder = saelens(tmp_path, W, hook_name=None)
    with pytest.raises(errors.DirectionError, match="site="):
        rs.sae.load(folder)
    assert rs.sae.load(folder, site="resid_mid.2").site == "resid_mid.2"


def test_dictionary_learning_s_class_and_parts_agree(tmp_path):
    state = {
        "encoder.weight": W["W_enc"].T,
        "b_dec": W["b_dec"],
        "encoder.bias": W["b_enc"],
        "decoder.weight": W["W_dec"].T,
    }
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(errors.DamagedFile, match="nothing says which"):
        rs.sae.load(tmp_path, site="resid_post.1")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "GatedAutoEncoder", "layer": 1}}))
    with pytest.raises(errors.DamagedFile, match="GatedAutoEncoder"):
        rs.sae.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "CrossCoder", "layer": 1}}))
    with pytest.raises(errors.DirectionError, match="CrossCoder"):
        rs.sae.load(tmp_path)


def test_another_model_is_named(tmp_path, llama, gpt2):
    with pytest.raises(errors.WrongWidth, match=r"another model.*pythia.*width 32"):
        rs.sae.load(saelens(tmp_path / "a", W, model_name="pythia-70m"), llama)
    wide = weights(d=32)
    folder = saelens(tmp_path / "b", wide, model_name="pythia-70m", d_in=32)
    with pytest.raises(errors.WrongModel, match=r"pythia-70m.*llama.*check=False"):
        rs.sae.load(folder, llama)
    assert rs.sae.load(folder, llama, check=False).site == "resid_pre.3"
    with pytest.raises(errors.UnknownLayer):
        rs.sae.load(saelens(tmp_path / "c", wide, hook_name="blocks.9.hook_resid_pre", d_in=32), llama)


def test_saelens_has_no_word_for_some(tmp_path):
    sae = rs.sae.load(saelens(tmp_path / "a", W))
    with pytest.raises(errors.FileNotThere, match="no such folder"):
        rs.sae.save(sae, tmp_path / "b" / "c")
    parts = {"mean": torch.zeros(D), "bias": torch.zeros(F), "base": torch.zeros(D), "activation": "jumprelu"}
    under = rs.directions.EncoderDictionary(
        "sae", "resid_pre.1", sae.read, sae.write, threshold=-torch.ones(F), **parts
    )
    with pytest.raises(errors.DirectionError, match="under zero"):
        rs.sae.save(under, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    sae = rs.sae.load(saelens(tmp_path / "a", W))
    rs.sae.save(sae, tmp_path / "b")
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        rs.sae.save(sae, tmp_path / "b")
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before
