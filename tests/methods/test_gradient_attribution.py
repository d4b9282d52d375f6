"""Gradient times activation against plain autograd over the stock model, and the exact sample against ablation."""

import pytest
import torch
from families import FAMILIES
from plain_gradients import PLACES, slopes

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import IOI

METRIC = rs.logit_diff(5, 7)
IDS = [[5, 9, 3, 17, 8, 2], [11, 4, 17, 3, 6, 9]]


def plain(logits):
    return logits[:, -1, 5] - logits[:, -1, 7]


@pytest.mark.parametrize("name", PLACES)
def test_it_is_plain_autograd_over_the_stock_model(name):
    hf = FAMILIES[name].build()
    found = slopes(hf, name, torch.tensor(IDS), plain)
    model = Model(hf, name=name)
    for of in ("heads", "mlps", "neurons", "resid"):
        products = torch.stack([x * g for x, g in found[of]])  # layer prompt pos width
        if of == "heads":
            products = products.unflatten(-1, (model.n_heads, -1)).sum(-1)
        elif of != "neurons":
            products = products.sum(-1)
        each = rs.gradient_attribution(model, IDS, METRIC, of=of, positions="each", sample=0, progress=False)
        torch.testing.assert_close(each.attribution.values, products.movedim(1, -1), atol=1e-5, rtol=1e-4)
        summed = rs.gradient_attribution(model, IDS, METRIC, of=of, positions="all", sample=0, progress=False)
        torch.testing.assert_close(summed.attribution.values, products.sum(2).movedim(1, -1), atol=1e-5, rtol=1e-4)
        assert summed.attribution.values.abs().max() > 1e-3


@pytest.mark.parametrize("of", ["heads", "mlps", "neurons", "resid"])
def test_the_sample_is_what_a_plain_run_loses_without_the_part(llama, of):
    found = rs.gradient_attribution(llama, IDS, METRIC, of=of, positions=[1, -1], sample=6, seed=3, progress=False)
    base = METRIC(llama.run(IDS, ["logits"]))
    site = {"heads": "z", "mlps": "mlp_out", "neurons": "mlp_post", "resid": "resid_pre"}[of]
    for part, exact, estimate in zip(
        found.exact.coords["part"], found.exact.values, found.estimate.values, strict=True
    ):
        said = part.split()
        where = {name: int(label) for name, label in zip(said[::2], said[1::2], strict=True)}
        layer = where.pop("layer")
        cut = METRIC(llama.run(IDS, ["logits"], edits=edits.ablate(f"{site}.{layer}", **where)))
        torch.testing.assert_close(exact, (base - cut).double(), atol=1e-5, rtol=1e-4)
        assert torch.equal(found.attribution.select(layer=layer, **where).values, estimate)
    assert found.strongest == 3
    means = found.attribution.values.abs().mean(-1).flatten()
    assert found.estimate.values.abs().mean(1)[0] == means.max()


def test_it_is_exact_where_the_metric_is_linear_in_the_part(llama):
    """Of the last stream under a held divisor."""
    held = [edits.freeze("final_scale")]
    how = {"of": "resid", "positions": [-1], "sample": 4, "progress": False}
    found = rs.gradient_attribution(
        llama, IDS, METRIC, of="mlps", layers=[3], sample=1, background=held, progress=False
    )
    torch.testing.assert_close(found.estimate.values, found.exact.values, atol=1e-6, rtol=1e-5)
    bent = rs.gradient_attribution(llama, IDS, METRIC, **how)
    assert (bent.estimate.values - bent.exact.values).abs().max() > 1e-3  # the norm bends


def test_named_positions_are_each_prompt_s_own(smollm2):
    data = rs.tasks.ioi(smollm2, 3)
    found = rs.gradient_attribution(
        smollm2, data, rs.logit_diff(), layers=[20, 23], positions=["S2", "END"], sample=4, progress=False
    )
    assert found.attribution.dims == ("layer", "pos", "head", "prompt")
    for i in range(3):
        one = data.subset([i])
        at = [data.at("S2")[i], data.at("END")[i]]
        plain = rs.gradient_attribution(
            smollm2, one, rs.logit_diff(), layers=[20, 23], positions=at, sample=0, progress=False
        )
        torch.testing.assert_close(found.attribution.values[..., i], plain.attribution.values, atol=1e-5, rtol=1e-3)
        part = found.exact.coords["part"][0].split()
        where = {"pos": data.at(part[3])[i], "head": int(part[5])}
        cut = smollm2.run(one, ["logits"], edits=edits.ablate(f"z.{part[1]}", **where))
        lost = rs.logit_diff()(smollm2.run(one, ["logits"])) - rs.logit_diff()(cut)
        torch.testing.assert_close(found.exact.values[0, i], lost.double()[0], atol=1e-4, rtol=1e-3)


def test_on_the_default_model_heads_are_ranked_as_ablation_ranks_them(smollm2):
    m = rs.logit_diff(" Mary", " John")
    found = rs.gradient_attribution(smollm2, IOI, m, sample=24, seed=1, progress=False)
    assert found.agreement["pearson"] > 0.9
    assert found.agreement_drawn["pearson"] > 0.5
    assert "first order" in found.attribution.exact
    mixed = rs.gradient_attribution(smollm2, IOI, m, sample=0, progress=False)
    assert mixed.agreement["pearson"] is None
    assert len(mixed.exact.values) == 0


class Likeliest:
    sites = ("logits",)
    unit = "ids"

    def __call__(self, recording):
        return recording.logits_at(-1, None).argmax(-1).double()


def test_it_refuses(llama):
    with pytest.raises(errors.BadArguments, match="heads, mlps"):
        rs.gradient_attribution(llama, IDS, METRIC, of="tails", progress=False)
    with pytest.raises(errors.NoGradient):
        rs.gradient_attribution(llama, IDS, Likeliest(), progress=False)
    with pytest.raises(errors.UnalignedPrompts):
        rs.gradient_attribution(llama, [[2, 3, 4], [5, 6]], METRIC, positions="each", progress=False)
    with pytest.raises(errors.SiteError):
        rs.gradient_attribution(Model(FAMILIES["mixtral"].build()), IDS, METRIC, of="neurons", progress=False)
