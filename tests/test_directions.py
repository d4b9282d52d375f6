"""Directions: the algebra, the spaces, PCA against scikit-learn, and the unembedding as directions."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import residscope as rs
from residscope import directions, errors
from residscope.corpus.moments import Moments
from residscope.corpus.pca import principal
from residscope.directions import Dictionary, Direction
from residscope.engine.model import Model
from tiny_models import VOCAB, tiny_llama


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=tolerance, check_dtype=False
    )


def some(seed, d=16):
    generator = torch.Generator().manual_seed(seed)
    read, write = torch.randn(d, generator=generator), torch.randn(d, generator=generator)
    return Direction(read, write, "resid_pre.1", offset=float(seed), name=f"d{seed}")


def test_the_algebra_is_linear_in_what_it_projects():
    a, b, x = some(1), some(2), torch.randn(5, 16)
    mix = 0.5 * a - 0.2 * b
    for space in ("raw", "centred"):
        close(mix.project(x, space=space), 0.5 * a.project(x, space=space) - 0.2 * b.project(x, space=space), 1e-5)
    assert mix.name == "0.5 d1 - 0.2 d2"
    assert mix.provenance["sum"][0]["times"] == 0.5
    close((-1 * -a).read, a.read)
    close(a.unit().read.norm(), 1.0)
    close(a.cosine(3 * a), 1.0)
    close(a.cosine(-a), -1.0)


def test_directions_own_their_tensors_and_refuse_what_does_not_fit():
    read = torch.ones(4)
    d = Direction(read, read, "resid_pre.1")
    read.zero_()
    assert d.read.sum() == 4
    with pytest.raises(errors.WrongWidth):
        d.project(torch.ones(2, 5))
    with pytest.raises(errors.WrongWidth):
        some(1) + d
    with pytest.raises(errors.DirectionError, match="different sites"):
        some(1) + some(2).at("resid_pre.0")
    with pytest.raises(errors.ZeroDirection):
        (some(1) - some(1)).unit()
    with pytest.raises(errors.ZeroDirection):
        Direction(torch.tensor([float("nan")]), torch.ones(1), "resid_pre.1")
    with pytest.raises(errors.UnknownSite):
        Direction(torch.ones(4), torch.ones(4), "residual.1")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_unembedding_directions_give_the_models_own_logits(name, ids, request):
    model = request.getfixturevalue(name)
    rec = model.run(ids)
    for token in (0, 17, VOCAB - 1):
        close(rec.project(directions.unembedding(model, token)), rec.logits[..., token], 1e-5)
    difference = directions.logit_diff(model, 17, 40)
    close(rec.project(difference), rec.logits[..., 17] - rec.logits[..., 40], 1e-5)
    close(rs.logit_diff(17, 40)(rec), (rec.logits[:, -1, 17] - rec.logits[:, -1, 40]), 1e-9)
    early = directions.logit_diff(model, 17, 40, site="resid_pre.2")
    lens = model.lens(rec["resid_pre.2"])
    close(rec.project(early), lens[..., 17] - lens[..., 40], 1e-5)


def test_pca_is_scikit_learns(llama):
    rows = [torch.randint(2, VOCAB, (20,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(30)]
    x = torch.cat([llama.run([row], ["resid_pre.2"])["resid_pre.2"][0, 1:] for row in rows])
    assert (x.norm(dim=-1) < 10 * x.norm(dim=-1).median()).all()
    moments = Moments.empty(32)
    for part in x.split(37):
        moments.add(part)
    ours = Dictionary("pca", "resid_pre.2", **principal(moments, 6))
    theirs = PCA(6).fit(x.numpy())
    close(ours.variance, theirs.explained_variance_ratio_, 1e-5)
    close(ours.sd, np.sqrt(theirs.explained_variance_), 1e-5)
    close(ours.mean, theirs.mean_, 1e-5)
    cosines = np.abs((ours.read.numpy() * theirs.components_).sum(1))
    assert cosines.min() > 0.9999
    centred = ours[3].project(x)
    close(centred.abs(), np.abs(theirs.transform(x.numpy())[:, 3]), 1e-4)
    assert ours[3].name == "PC 3"
    close(ours[3].scale, centred.std(), 1e-4)


def test_moments_merge_in_any_order():
    x = torch.randn(100, 7).double()
    whole, a, b = Moments.empty(7), Moments.empty(7), Moments.empty(7)
    whole.add(x)
    a.add(x[:13])
    b.add(x[13:])
    b.merge(a)
    close(b.mean, whole.mean, 1e-10)
    close(b.covariance, torch.cov(x.T), 1e-10)


def test_dictionary_encode_decode_and_error():
    q, _ = torch.linalg.qr(torch.randn(8, 8))
    d = Dictionary("pca", "resid_pre.1", q[:5], q[:5], torch.randn(8))
    x = torch.randn(3, 4, 8)
    close(d.decode(d.encode(x)) + d.error(x), x, 1e-5)
    close(d.encode(d.decode(d.encode(x))), d.encode(x), 1e-5)
    close(d.encode(x)[..., 2], d[2].project(x), 1e-5)
    with pytest.raises(errors.DirectionError, match="0 to 4"):
        d[5]
    assert len(list(d)) == 5


def test_saved_dictionaries_come_back_and_know_their_model(tmp_path, llama):
    moments = Moments.empty(32)
    moments.add(llama.run([list(range(2, 40))], ["resid_pre.1"])["resid_pre.1"][0])
    found = {"resid_pre.1": Dictionary("pca", "resid_pre.1", **principal(moments, 4), provenance={"corpus": "rows"})}
    directions.save(tmp_path / "d.safetensors", found, llama)
    back = directions.read(tmp_path / "d.safetensors", llama)["resid_pre.1"]
    close(back.read, found["resid_pre.1"].read)
    close(back.sd, found["resid_pre.1"].sd)
    assert back[1].provenance["corpus"] == "rows"
    with pytest.raises(errors.WrongModel):
        directions.read(tmp_path / "d.safetensors", Model(tiny_llama(seed=5)))
    assert directions.shipped(llama) == {}


def test_a_space_that_there_is_not_is_refused_not_read_as_raw():
    direction = directions.Direction(torch.ones(3), torch.ones(3), "embed", offset=2.0)
    assert float(direction.project(torch.ones(3), space="centred")) == 1.0
    for space in ("centered", "", "Raw"):
        with pytest.raises(errors.DirectionError, match="no such space"):
            direction.project(torch.ones(3), space=space)
