"""Dictionaries of every kind, written and read again by id."""

import pytest
import torch

import residscope as rs
from corpus.readings import model, texts
from residscope import directions, errors
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.files import read_tensors, write_tensors
from tiny_models import tiny_llama

PARTS = ("read", "write", "mean", "sd", "variance", "offset")


def every_kind() -> list[Dictionary]:
    of, corpus = model(), texts()
    return [
        rs.pca(of, corpus, "resid_post.1", 4),
        rs.pca(of, corpus, "resid_post.1", 3, standardise=True),
        rs.pca(of, corpus, "result.2", 2, head=3),
        rs.svd(of, corpus, "z.1", 2, head=0),
        rs.nmf(of, corpus, "mlp_post.1", 3, clip=True),
        rs.mean_difference(of, {"a": texts(1), "b": texts(2, alphabet="xyz ")}, "embed"),
        rs.unembedding_rows(of, ["a", "\\", "#"], site="resid_pre.2"),
    ]


def test_every_kind_survives_the_round_trip(tmp_path):
    kept = every_kind()
    directions.save(tmp_path / "d.safetensors", kept, model())
    back = directions.read(tmp_path / "d.safetensors", model())
    assert list(back) == [
        "pca@resid_post.1", "pca@resid_post.1#2", "pca@result.2.h3", "svd@z.1.h0", "nmf@mlp_post.1", "mean_difference@embed",
        "unembedding@resid_pre.2",
    ]  # fmt: skip
    x = model().run("some text to read", ["resid_pre.2"])["resid_pre.2"]
    for a, b in zip(kept, back.values(), strict=True):
        for part in PARTS:
            left, right = getattr(a, part), getattr(b, part)
            assert (left is None) == (right is None), (a, part)
            assert left is None or torch.equal(left, right), (a, part)
        assert (a.name, a.site, a.head, a.space, a.names) == (b.name, b.site, b.head, b.space, b.names)
        assert dict(a.provenance) == dict(b.provenance)
        assert a[0].place == b[0].place
    assert torch.equal(kept[-1].encode(x, model=model()), back["unembedding@resid_pre.2"].encode(x, model=model()))


def test_names_of_ones_own_are_kept(tmp_path):
    (first, *_) = every_kind()
    directions.save(tmp_path / "d.safetensors", {"mine": first}, model())
    assert list(directions.read(tmp_path / "d.safetensors", model())) == ["mine"]
    directions.save(tmp_path / "d.safetensors", first, model())
    assert list(directions.read(tmp_path / "d.safetensors", model())) == ["pca@resid_post.1"]


def test_half_precision_keeps_unit_vectors_and_only_those(tmp_path):
    kept = every_kind()
    directions.save(tmp_path / "d.safetensors", kept, model(), dtype=torch.float16)
    back = list(directions.read(tmp_path / "d.safetensors", model()).values())
    for a, b in zip(kept, back, strict=True):
        torch.testing.assert_close(b.read, a.read, rtol=2e-3, atol=2e-4)
        torch.testing.assert_close(b.write, a.write, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(back[0].read.norm(dim=1), torch.ones(4))


def test_a_file_from_before_ids_is_still_read(tmp_path):
    import json

    from safetensors.torch import save_file

    d = every_kind()[0]
    tensors = {"signature": directions.signature(model())}
    tensors |= {f"resid_post.1/{part}": getattr(d, part).half() for part in ("read", "mean", "sd", "variance")}
    about = {"resid_post.1": {"name": "pca", "provenance": dict(d.provenance)}}
    save_file(tensors, str(tmp_path / "old.safetensors"), metadata={"dictionaries": json.dumps(about)})
    found = directions.read(tmp_path / "old.safetensors", model())
    assert list(found) == ["resid_post.1"]
    assert (found["resid_post.1"].site, found["resid_post.1"].space) == ("resid_post.1", "centred")
    torch.testing.assert_close(found["resid_post.1"].read, d.read, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(found["resid_post.1"].read.norm(dim=1), torch.ones(4))


def test_files_that_are_not_these_are_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(errors.FileNotThere):
        directions.read(path, model())
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(errors.DamagedFile):
        directions.read(path, model())
    write_tensors(path, "recording", {"x": torch.ones(2)}, {})
    with pytest.raises(errors.DamagedFile, match="holds no dictionaries"):
        directions.read(path, model())
    directions.save(path, every_kind()[:1], model())
    with pytest.raises(errors.WrongModel):
        directions.read(path, Model(tiny_llama(seed=5)))
    tensors, about = read_tensors(path, "dictionaries")
    del tensors["pca@resid_post.1/mean"]
    write_tensors(path, "dictionaries", tensors, about)
    with pytest.raises(errors.DamagedFile, match="mean"):
        directions.read(path, model())
    write_tensors(path, "dictionaries", {"x": torch.ones(2)}, {})
    with pytest.raises(errors.DamagedFile, match="signature"):
        directions.read(path, model())
    spoilt = bytearray((tmp_path / "d.safetensors").read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(errors.DamagedFile, match="damaged"):
        directions.read(path, model())
    with pytest.raises(errors.FileNotThere, match="no such folder"):
        directions.save(tmp_path / "none" / "d.safetensors", every_kind()[:1], model())


def test_ids_are_numbered_where_they_would_clash():
    (first, *_) = every_kind()
    assert list(directions.by_id([first, first, first])) == [
        "pca@resid_post.1", "pca@resid_post.1#2", "pca@resid_post.1#3",
    ]  # fmt: skip
