"""The kurtosis of bases that are known, turns that change no length, and bases planted into tiny models."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.methods.reading.basis_meter import kurtosis, rotated

PROMPTS = [[5, 9, 3, 17, 8, 2, 11, 30], [7, 4, 60, 21, 9, 44, 3, 12]]


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_normal_coordinates_have_three_and_one_axis_has_the_number_of_axes():
    normal = torch.randn(300, 2000, generator=drawn(), dtype=torch.float64)
    assert float(kurtosis(normal).mean()) == pytest.approx(3, abs=0.03)
    one = torch.eye(500, dtype=torch.float64)[:40] * 7
    d = 500
    p = 1 / d  # of a coordinate that is 1 with chance p: 1 / (p (1 - p)) - 3
    assert kurtosis(one).tolist() == pytest.approx([1 / (p * (1 - p)) - 3] * 40)
    assert float(kurtosis(rotated(one, drawn())).mean()) == pytest.approx(3, abs=0.2)
    assert kurtosis(torch.ones(2, 6)).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (7, 3, 16)])
def test_a_rotation_keeps_lengths_and_angles_and_is_uniform(shape):
    x = torch.randn(shape, generator=drawn(), dtype=torch.float64)
    y = rotated(x, drawn(1))
    products = [torch.einsum("t...d,s...d->ts...", v, v) for v in (x, y)]
    torch.testing.assert_close(*products)
    assert not torch.allclose(x, y)
    first = torch.stack([rotated(x[:1], drawn(seed))[0] for seed in range(300)])
    assert float(first.mean(0).abs().max()) < 0.35 * float(x[0].abs().max() + 1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "phi", "mixtral", "bloom"])
def test_every_family_is_read_as_plain_runs_have_it(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    found = rs.basis_meter(model, PROMPTS, draws=2)
    sites = [site for site in ("resid_post", "mlp_post", "z") if site not in model.sites.absent]
    assert list(found.kurtosis.coords["site"]) == sites
    run = model.run(PROMPTS, ["z.1"])["z.1"].double()
    centred = run - run.mean(-1, keepdim=True)
    plain = (centred**4).mean(-1) / (centred**2).mean(-1) ** 2  # [prompt pos head]
    assert float(found.kurtosis.select(site="z", layer=1).values) == pytest.approx(float(plain[:, 1:].mean()), rel=1e-4)
    assert bool((found.kurtosis.low <= found.kurtosis.values).all())


def test_a_long_axis_that_is_planted_is_found_and_none_where_there_is_none():
    hf = FAMILIES["llama"].build().float()
    with torch.no_grad():
        hf.model.embed_tokens.weight[:, 5] += 40
    model = rs.load((hf, None))
    found = rs.basis_meter(model, PROMPTS, sites=["resid_post", "v"], draws=8)
    assert found.privileged("resid_post") == (0, 1, 2)
    assert found.axes[0, :, 0].tolist() == [5, 5, 5]
    assert float(found.share[0, 0, 0]) > 0.5
    assert len(found.privileged("v")) < 3  # random weights: heads of 8 axes like any others


def test_what_it_refuses():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with pytest.raises(errors.BadArguments, match="pattern"):
        rs.basis_meter(model, PROMPTS, sites=["pattern"])
    with pytest.raises(errors.BadArguments, match="once"):
        rs.basis_meter(model, PROMPTS, sites=["z", "z"])
    with pytest.raises(errors.PromptError, match="no token"):
        rs.basis_meter(model, [[5]])
    with pytest.raises(errors.AbsentSite):
        rs.basis_meter(rs.load((FAMILIES["mixtral"].build().float(), None)), PROMPTS, sites=["mlp_post"])
