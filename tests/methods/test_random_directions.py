"""Random directions: p-values that are uniform where nothing is planted, and small where something is."""

import pytest
import scipy.stats
import torch

import residscope as rs
from methods.readers import TEXTS, drawn, planted_embedding, reader
from residscope.corpus.chunks import chunks
from residscope.corpus.moments import Moments
from residscope.errors import WrongModel, ZeroDirection
from residscope.methods._lib.badges import correlates
from residscope.methods._lib.random_like import equal_variance, step_of
from residscope.methods.evidence.null_directions import Powers


def read(model: rs.Model, site: str = "resid_post.1") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = []
    for chunk in chunks(model, TEXTS, [site], tokens=1500):
        x = chunk.at(site)
        keep = chunk.keep(site)
        pos = torch.arange(x.shape[1]).expand(keep.shape)
        parts.append((x[keep], chunk.record.tokens[keep], pos[keep]))
    x, ids, pos = (torch.cat(column) for column in zip(*parts, strict=True))
    return x, ids, pos


def eta(y: torch.Tensor, group: torch.Tensor) -> float:
    between = sum(((y[group == g].mean() - y.mean()) ** 2 * (group == g).sum()) for g in group.unique())
    return float(between / ((y - y.mean()) ** 2).sum())


def test_the_measures_are_what_they_say() -> None:
    model = reader()
    direction = drawn(7)
    found = rs.null_directions(model, direction, TEXTS, n=19, tokens=1500)
    x, ids, pos = read(model)
    y = x @ direction.read
    want = [
        float(y.var(unbiased=False) / (x - x.mean(0)).pow(2).sum(1).mean()),
        float(scipy.stats.kurtosis(y.numpy())), eta(y, ids), eta(y, pos),
    ]  # fmt: skip
    assert found.observed.values.tolist() == pytest.approx(want, rel=1e-6)
    assert 0 < want[2] < 1


def test_sums_read_apart_join_to_the_same() -> None:
    x, ids, pos = read(reader())
    R = torch.stack([drawn(i).read for i in range(3)])
    whole, first, second = (Powers(R, x[:50]) for _ in range(3))
    whole.add(x, ids, pos)
    first.add(x[:300], ids[:300], pos[:300])
    second.add(x[300:], ids[300:], pos[300:])
    first.merge(second)
    torch.testing.assert_close(first.measures(), whole.measures(), rtol=1e-9, atol=1e-12)
    with pytest.raises(WrongModel):
        first.merge(Powers(R[:2], x[:50]))


def test_p_values_are_uniform_where_nothing_is_planted() -> None:
    model = reader()
    found = [rs.null_directions(model, drawn(100 + i), TEXTS, n=99, tokens=800, seed=i) for i in range(40)]
    for measure in ("share of variance", "token identity", "position"):
        p = torch.tensor([float(f.p.select(drawn="uniform", measure=measure).values) for f in found])
        assert 0.35 < float(p.mean()) < 0.65
        assert scipy.stats.kstest(p.numpy(), "uniform").pvalue > 0.005
    both = [2 * min(f.beaten("token identity"), f.beaten("position")) <= 0.05 for f in found]
    assert sum(both) <= 5, "about one in twenty of random directions, or fewer"


def test_what_is_planted_stands_out() -> None:
    model, direction = planted_embedding()
    found = rs.null_directions(model, direction, TEXTS, tokens=1500)
    assert found.beaten("token identity") == pytest.approx(0.005)
    assert float(found.observed.select(measure="token identity").values) > 0.9
    assert found.beaten("position") > 0.05, "and says nothing of the position"


def test_before_the_first_block_a_token_explains_every_direction_and_so_none_stands_out() -> None:
    hf_only_tokens = reader()  # no position embeddings: the stream there is the token's alone
    found = rs.null_directions(hf_only_tokens, drawn(1, site="resid_pre.0"), TEXTS, n=49, tokens=800)
    assert float(found.observed.select(measure="token identity").values) == pytest.approx(1)
    assert found.beaten("token identity") == 1
    badge = correlates(found, None, fitted=False)
    assert badge.shown is False
    assert "of any direction's coordinate" in badge.sentence


@pytest.mark.parametrize("factor", [0.05, 0.3, 1.0, 3.0])
def test_random_steps_vary_in_the_data_as_the_direction_does(factor: float) -> None:
    x, _, _ = read(reader())
    moments = Moments.empty(x.shape[1])
    moments.add(x)
    values, vectors = torch.linalg.eigh(moments.covariance)
    wanted = factor * values.mean()
    step = vectors[:, 5] * wanted.sqrt()
    drawn_, _ = equal_variance(step, moments, 400, seed=0)
    variances = ((drawn_ @ moments.covariance) * drawn_).sum(1)
    if values[6] < wanted < values[-2]:
        assert float(variances.mean()) == pytest.approx(float(wanted), rel=0.4)
    assert float((drawn_ @ step).abs().max()) < 1e-6 * float(step.norm())
    torch.testing.assert_close(drawn_.norm(dim=1), torch.ones(400, dtype=torch.float64))


def test_a_step_is_one_standard_deviation_of_the_coordinate() -> None:
    x, _, _ = read(reader())
    moments = Moments.empty(x.shape[1])
    moments.add(x)
    slanted = rs.Direction(drawn(1).read * 3, drawn(2).read + drawn(1).read, "resid_post.1")
    step = step_of(slanted, moments)
    assert float(slanted.read @ step) == pytest.approx(float((x @ slanted.read).std()))
    across = rs.Direction(torch.eye(32, dtype=torch.float64)[0], torch.eye(32, dtype=torch.float64)[1], "resid_post.1")
    with pytest.raises(ZeroDirection):
        step_of(across, moments)
