"""Dictionaries hooked at the wrong place, centred wrongly, without BOS: caught on the real model, and the right place named."""

from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.corpus.text import english
from residscope.corpus.vectors import vectors_of
from residscope.directions import EncoderDictionary
from residscope.sae import folding
from residscope.sae.fits import share
from sae.written import saelens, weights

TEXT = [text for _, text in zip(range(60), english(), strict=False)]
HELD_OUT = TEXT[40:]
PLAIN = {"bos": False}


def trained(x, *, n=256, k=16, steps=100):
    """A TopK autoencoder, by plain gradient descent for three seconds."""
    torch.manual_seed(0)
    s = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
    rows = torch.nn.functional.normalize(torch.randn(n, x.shape[1]), dim=1)
    read, write = (rows.clone().requires_grad_() for _ in range(2))
    bias, mean = torch.zeros(n, requires_grad=True), (x * s).mean(0).clone().requires_grad_()
    adam = torch.optim.Adam([read, write, bias, mean], lr=2e-3)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 2e-3 * min(1.0, (steps - step) / (steps * 0.4))
        y = x[torch.randint(len(x), (512,))] * s
        values, indices = ((y - mean) @ read.T + bias).topk(k)
        a = torch.zeros(len(y), n).scatter(1, indices, values.relu())
        loss = (y - a @ write - mean).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    parts = {"read": read * s, "write": write / s, "mean": mean / s, "base": mean / s, "bias": bias}
    return {name: part.detach() for name, part in parts.items()} | {"activation": "topk", "k": k}


@pytest.fixture(scope="module")
def model():
    return rs.load("smollm2-135m")


@pytest.fixture(scope="module")
def parts(model):
    x = [next(iter(one.values())) for one in vectors_of(model, TEXT[:40], ["resid_post.8"], tokens=5000)]
    return trained(torch.cat(x))


def at(site, parts, **more):
    return EncoderDictionary("sae", site, provenance={**PLAIN, **more}, **parts)


def checked(model, dictionary, **more):
    return rs.sae.fit_check(model, dictionary, HELD_OUT, tokens=250, **more)


def test_one_that_is_where_it_says(model, parts):
    found = checked(model, at("resid_post.8", parts))
    assert found.fits
    assert found.best == found.stated == "resid_post.8, without BOS"
    assert found.fvu.values[0] == found.least < 0.35
    assert found.provenance["left out"] > 0


@pytest.mark.parametrize("said", ["resid_post.9", "resid_mid.10"])
def test_one_layer_off(model, parts, said):
    found = checked(model, at(said, parts))
    assert not found.fits
    column = found.fvu.coords["site"][found.fvu.coords["reading"].index(found.best)]
    wanted = model.sites.canonical("resid_post.8")
    assert model.sites.canonical(column) == wanted or said == "resid_mid.10"  # two sites off: the nearest there is
    assert found.best.endswith("without BOS")


def test_the_share_is_the_equation(model, parts):
    """Against Hugging Face's own hidden states, with the same tokens left out, in float64."""
    d = at("resid_post.8", parts)
    found = rs.sae.fit_check(
        model, d, ["The old man and the sea were not what they had been before the storm came in."], tokens=100
    )
    ids = torch.tensor([found.provenance["tokens"] * [0]])
    ids = model.tokens("The old man and the sea were not what they had been before the storm came in.")
    x = model.hf(ids, output_hidden_states=True).hidden_states[9][0].detach()
    p = (x.double() - d.mean.double()) @ d.read.double().T + d.bias.double()
    a = torch.where(p >= p.sort(1, descending=True).values[:, d.k - 1 : d.k], p.clamp(min=0), 0)
    remade = a @ d.write.double() + d.base.double()
    lengths = x.norm(dim=1)
    keep = lengths <= 10 * lengths[1:].median()
    keep[0] = False
    for kept, value in ((keep, found.fvu), (torch.ones_like(keep), found.whole)):
        y = x[kept].double()
        wanted = (y - remade[kept]).square().sum() / (y - y.mean(0)).square().sum()
        torch.testing.assert_close(value.values[0], wanted, rtol=1e-4, atol=1e-6)


def test_the_share_of_what_is_remade_wholly_and_not_at_all():
    y = torch.randn(50, 6) + 3
    assert share(y, y) == 0
    assert share(y, y.mean(0).expand_as(y)) == pytest.approx(1, abs=1e-6)
    assert share(y, torch.zeros_like(y)) > 1


def test_centred_wrongly(model, parts):
    """Rows that read the mean: on a centred stream they read nothing of it, on this model's they do."""
    one = torch.ones(model.d_model) / model.d_model**0.5
    x = model.run(HELD_OUT[0][:300], ["resid_post.8"])["resid_post.8"][0]
    gain = 6.0 / (x @ one).abs().mean()
    reads_mean = parts | {"read": parts["read"] + gain * one, "mean": parts["mean"] - parts["mean"].mean()}
    d = at("resid_post.8", reads_mean)
    found = checked(model, d)
    assert not found.fits
    assert found.best == "resid_post.8, centred, without BOS"
    folded = replace(d, **folding.centred(reads_mean), provenance={**PLAIN, "centred": True})
    assert checked(model, folded, uncentred=d).fits
    # and the other way: the files say centred, and it was not
    lost = at("resid_post.8", folding.centred(parts | {"read": parts["read"] - gain * one / 3}), centred=True)
    assert checked(model, lost, uncentred=at("resid_post.8", parts)).best.startswith("resid_post.8, ")


def test_trained_with_bos_and_read_without(model):
    """A feature that is on where BOS is not: fitted to tell the stream with BOS from that without."""
    rows = [model.tokenizer(text, add_special_tokens=False)["input_ids"][:100] for text in TEXT[:30]]
    begin = model.tokenizer.bos_token_id
    values = [
        model.run([[begin, *row] for row in rows], ["resid_post.2"])["resid_post.2"][:, 2:],
        model.run(rows, ["resid_post.2"])["resid_post.2"][:, 1:],
    ]
    lengths = [min(len(row) for row in rows)] * 2
    x = [value[:, : lengths[0] - 1].flatten(0, 1).float() for value in values]
    both, told = torch.cat(x), torch.cat([-torch.ones(len(x[0])), torch.ones(len(x[1]))])
    centre = both.mean(0)
    scatter = (both - centre).T @ (both - centre)
    read = torch.linalg.solve(
        scatter + torch.eye(model.d_model) * scatter.diagonal().mean() * 1e-3, (both - centre).T @ told
    )
    pca = rs.pca(model, TEXT[:30], "resid_post.2", 60, tokens=3000)
    write = torch.zeros(1, model.d_model)
    write[0, 5] = 400.0
    d = EncoderDictionary(
        "sae", "resid_post.2", torch.cat([pca.read, -pca.read, read[None]]), torch.cat([pca.write, -pca.write, write]),
        mean=pca.mean, bias=torch.cat([torch.zeros(120), (read @ (pca.mean - centre))[None] - 0.35]), base=pca.mean,
        provenance={"bos": False},
    )  # fmt: skip
    found = checked(model, d)
    assert not found.fits
    assert found.best == "resid_post.2, with BOS"
    assert checked(model, d, bos=True).fits


def test_scaled_input_that_was_not_said(model, parts):
    x = model.run(HELD_OUT[0][:300], ["resid_post.8"])["resid_post.8"][0, 1:]
    s = float(model.d_model**0.5 / x.norm(dim=1).mean())
    d = at("resid_post.8", folding.scaled(parts, 1 / s))
    found = checked(model, d)
    assert not found.fits
    assert found.best == "resid_post.8, unit mean norm, without BOS"
    assert found.provenance["scale"] == pytest.approx(s, rel=0.1)


def test_loading_refuses_with_the_place_and_keeps_what_was_found(model, parts, tmp_path):
    d = at("resid_post.9", parts)
    rs.sae.save(d, tmp_path / "sae")
    watch = {"corpus": HELD_OUT, "tokens": 250}
    with pytest.raises(errors.Misplaced, match=r"resid_post\.9.*site='resid_post\.8'.*check=False") as caught:
        rs.sae.load(tmp_path / "sae", model, **watch)
    assert isinstance(caught.value, errors.BadFit)
    assert "fit" not in rs.sae.load(tmp_path / "sae", model, check=False).provenance
    right = rs.sae.load(tmp_path / "sae", model, site="resid_post.8", **watch)
    assert right.provenance["fit"]["reading"] == "resid_post.8, without BOS"
    assert right.provenance["fit"]["FVU"] < 0.35
    noise = weights(d=model.d_model)
    with pytest.raises(errors.Misplaced, match=r"FVU"):
        rs.sae.load(
            saelens(tmp_path / "noise", {k: v * 30 for k, v in noise.items()}, d_in=model.d_model), model, **watch
        )


def test_a_report_is_shown_and_kept(model, parts, tmp_path):
    found = checked(model, at("resid_post.8", parts))
    found.save(tmp_path / "fit.safetensors")
    assert rs.load_item(tmp_path / "fit.safetensors") == found
    assert "FVU" in found.view().columns[1]
    assert len(found.to_dataframe()) == len(found.fvu.values)
    with pytest.raises(errors.DirectionError, match="encoders"):
        checked(model, rs.pca(model, HELD_OUT[:5], "resid_post.1", 2, tokens=300))
