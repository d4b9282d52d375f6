"""The dictionaries that ship: whole, of the default model, and as good where they are hooked as their card says."""

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.engine.sinks import kept
from residscope.sae.shipped import FOLDER
from tiny_models import tiny_gpt2

TEXT = (
    "The committee agreed that the new railway line should be opened before the end of the year, when the snow comes."
)


def test_each_explains_most_of_what_it_reads(smollm2):
    made = rs.sae.load("shipped", smollm2)
    assert [d.site for d in made.values()][:6] == [f"resid_post.{layer}" for layer in range(8, 14)]
    assert {(d.site, d.write_site) for d in [*made.values()][6:]} == {
        (f"mlp_in.{n}", f"mlp_out.{n}") for n in range(9, 14)
    }
    sites = {site for d in made.values() for site in (d.site, d.write_site)}
    record = smollm2.run(TEXT, [*sites])
    for id, d in made.items():
        keep = kept(record, d.site)[0] & kept(record, d.write_site)[0]
        x, y = record[d.site][0, keep], record[d.write_site][0, keep]
        unexplained = float((y - d.reconstruct(x)).square().sum() / (y - y.mean(0)).square().sum())
        assert unexplained < 0.6, (id, unexplained)
        assert 10 < float((d.encode(x) > 0).float().sum(-1).mean()) < 80, id


def test_they_are_small_and_of_this_model_alone(smollm2):
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 32_000_000
    one = rs.sae.load("shipped/sae@resid_post.8", smollm2)
    assert one.provenance["hash"] == smollm2.hash
    assert torch.isfinite(one.read).all()
    with pytest.raises(errors.NotFound, match=r"sae@resid_post\.9"):
        rs.sae.load("shipped/sae@resid_post.20", smollm2)
    with pytest.raises(errors.FileNotThere, match="for this model"):
        rs.sae.load("shipped", rs.load((tiny_gpt2().float(), None)))
    with pytest.raises(errors.BadArguments, match="of a model"):
        rs.sae.load("shipped")


def test_one_goes_out_and_comes_back_where_it_fits(smollm2, tmp_path):
    one = rs.sae.load("shipped/sae@resid_post.8", smollm2)
    rs.sae.save(one, tmp_path / "own")
    again = rs.sae.load(tmp_path / "own", smollm2)
    x = smollm2.run(TEXT, ["resid_post.8"])["resid_post.8"][0, 1:]
    torch.testing.assert_close(again.encode(x), one.encode(x))
    assert again.provenance["fit"]["reading"].startswith("resid_post.8")
