"""What a report says of a dictionary, beside the same worked out plainly."""

import pytest
import torch

import residscope as rs
from corpus import readings
from residscope import edits
from residscope.directions import EncoderDictionary
from residscope.errors import BadArguments, EmptyCorpus

TEXT = readings.texts(n=30)


@pytest.fixture(scope="module")
def model() -> rs.Model:
    return readings.model()


def features(model: rs.Model, site: str = "resid_post.1", n: int = 24, **more: object) -> EncoderDictionary:
    draw = torch.Generator().manual_seed(0)
    d = model.d_model
    read, write = (torch.randn(n, d, generator=draw) / d**0.5 for _ in range(2))
    zero = torch.zeros(d)
    return EncoderDictionary("sae", site, read, write, mean=zero, bias=torch.zeros(n), base=zero + 0.1, **more)


def test_measures_are_those_of_one_text_at_a_time(model: rs.Model) -> None:
    one = features(model)
    found = rs.sae.evaluate(model, one, TEXT, tokens=10**6, progress=False)
    x = torch.from_numpy(readings.vectors(model, TEXT, "resid_post.1")).float()
    y = one.decode(one.encode(x))
    assert found["FVU"] == pytest.approx(float((x - y).square().sum() / (x - x.mean(0)).square().sum()), rel=1e-3)
    assert found["L0"] == pytest.approx(float((one.encode(x) > 0).sum(1).float().mean()), rel=1e-3)
    torch.testing.assert_close(found.density, (one.encode(x) > 0).float().mean(0), rtol=1e-3, atol=1e-3)
    assert found.provenance["tokens"] == len(x)


def test_the_loss_is_that_of_an_edit(model: rs.Model) -> None:
    """Of one batch: with zero at every token but the first, as `edits.ablate` puts it there."""
    texts = TEXT[:1]
    found = rs.sae.evaluate(model, features(model), texts, tokens=10**6, progress=False)
    ids = model.tokens(texts[0])
    clean = rs.loss()(model.run(ids, rs.loss().sites))
    zero = rs.loss()(model.run(ids, rs.loss().sites, edits=edits.ablate("resid_post.1", pos=range(1, ids.shape[1]))))
    assert found["loss"] == pytest.approx(float(clean), rel=1e-4)
    whole = (float(zero) - found["loss"] - found["change of loss"]) / (float(zero) - float(clean))
    assert found["CE recovered (zero)"] == pytest.approx(whole, rel=1e-3)


def test_a_perfect_dictionary_changes_nothing(model: rs.Model) -> None:
    """Twice as many features as dimensions, reading e_i and -e_i: relu gives back every vector."""
    d = model.d_model
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    zero = torch.zeros(d)
    perfect = EncoderDictionary("sae", "resid_post.1", both, both, mean=zero, bias=torch.zeros(2 * d), base=zero)
    found = rs.sae.evaluate(model, perfect, TEXT, tokens=2_000, progress=False)
    assert found["FVU"] == pytest.approx(0, abs=1e-9)
    assert found["change of loss"] == pytest.approx(0, abs=1e-5)
    assert found["CE recovered (zero)"] == pytest.approx(1, abs=1e-4)
    assert found["slope"] == pytest.approx(1, abs=1e-6)


def test_a_transcoder_is_put_where_it_writes(model: rs.Model) -> None:
    one = features(model, "mlp_in.1", written="mlp_out.1", skip=torch.zeros(model.d_model, model.d_model))
    found = rs.sae.evaluate(model, one, TEXT, tokens=1_000, progress=False)
    assert found.place == "mlp_in.1 to mlp_out.1"
    assert found["FVU"] > 0


def test_it_is_kept_and_shown(model: rs.Model, tmp_path) -> None:
    found = rs.sae.evaluate(model, features(model), TEXT, tokens=1_000, progress=False)
    found.save(tmp_path / "found.safetensors")
    assert rs.load_item(tmp_path / "found.safetensors") == found
    assert "FVU" in found._repr_html_()
    assert set(found.to_dataframe()["measure"]) >= {"FVU", "L0", "dead", "CE recovered (mean)"}


def test_text_that_it_was_trained_on_goes_by(model: rs.Model) -> None:
    told = {"corpus": "texts", "read": 300, "passes": 1}
    found = rs.sae.evaluate(model, features(model, provenance=told), TEXT, tokens=500, progress=False)
    assert found.held_out.startswith("held out: beyond the 300")
    assert found.provenance["skip"] == 300
    every = {"corpus": "texts", "read": 10**6, "passes": 1}
    assert "not held out" in rs.sae.evaluate(model, features(model, provenance=every), TEXT, progress=False).held_out
    again = {"corpus": "texts", "read": 300, "passes": 2}
    assert "not held out" in rs.sae.evaluate(model, features(model, provenance=again), TEXT, progress=False).held_out


def test_what_cannot_be_measured_is_refused(model: rs.Model) -> None:
    with pytest.raises(BadArguments):
        rs.sae.evaluate(model, rs.pca(model, TEXT, site="z.1", head=0, n=2), TEXT)
    with pytest.raises(EmptyCorpus):
        rs.sae.evaluate(model, features(model), TEXT, skip=10**9, progress=False)
