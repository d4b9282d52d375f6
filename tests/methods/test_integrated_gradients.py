"""Integrated gradients and saliency: against plain autograd over the stock model, in closed form, and complete everywhere."""

import pytest
import torch
from families import FAMILIES
from plain_gradients import PLACES, slopes

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import IOI, hook_count

METRIC = rs.logit_diff(5, 7)
IDS, OTHER = [5, 9, 3, 17, 8, 2], [5, 4, 3, 11, 8, 6]
PAIR = {"baseline": "prompt", "over": [OTHER], "progress": False}
ROUTED = ("mixtral", "qwen3_moe", "gpt_oss")  # which experts are chosen jumps along the way


def plain(logits):
    return logits[:, -1, 5] - logits[:, -1, 7]


@pytest.mark.parametrize("name", PLACES)
def test_inputs_are_plain_autograd_over_the_stock_model(name):
    """The middles of 400 steps between the stock embeddings, by the stock model alone."""
    hf = FAMILIES[name].build()
    with torch.no_grad():
        x, start = (hf.get_input_embeddings()(torch.tensor([ids])) for ids in (IDS, OTHER))
    t = ((torch.arange(400) + 0.5) / 400)[:, None, None]
    way = (start + t * (x - start)).requires_grad_()
    (slope,) = torch.autograd.grad(plain(hf(inputs_embeds=way, use_cache=False).logits).sum(), way)
    wanted = ((x - start)[0] * slope.mean(0)).sum(-1)
    found = rs.integrated_gradients(Model(hf, name=name), [IDS], METRIC, tolerance=1e-3, **PAIR)
    torch.testing.assert_close(found.attribution.values, wanted, atol=2e-3 * float(wanted.abs().max()), rtol=1e-2)
    assert not found.attribution.values[[0, 2, 4]].any()  # tokens that are the same in both
    assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_they_sum_to_what_the_metric_changes_by(name):
    """The other end of each way as an edit of a plain run."""
    model = Model(FAMILIES[name].build(), name=name)
    m = METRIC(model.run([IDS], ["logits"])).double()
    allowed = {"tolerance": 100.0, "most": 60} if name.split(",")[0] in ROUTED else {"tolerance": 0.01}
    for of, site in (("inputs", None), ("heads", "z"), ("mlps", "mlp_out"), ("neurons", "mlp_post")):
        if site is not None and site not in model.sites.names:
            continue
        layers = {} if site is None else {"layers": [1]}
        found = rs.integrated_gradients(
            model, [IDS], METRIC, of=of, positions="each", steps=5, **layers, **allowed, **PAIR
        )
        if site is None:
            lost = m - METRIC(model.run([OTHER], ["logits"]))
        else:
            cut = edits.patch(f"{site}.1", [OTHER])
            lost = m - METRIC(model.run([IDS], ["logits"], edits=cut))
        torch.testing.assert_close(found.change.values, lost, atol=1e-5, rtol=1e-4)
        total = found.attribution.values.sum()
        torch.testing.assert_close(found.gap.values[0], total - lost[0], atol=1e-5, rtol=1e-3)
        if "most" not in allowed:
            cancelled = float(found.attribution.values.abs().sum()) / 100
            assert abs(total - lost[0]) <= 0.01 * max(abs(float(lost[0])), cancelled) + 1e-4
    assert found.attribution.values.abs().max() > 1e-5
    assert hook_count(model.hf) == 0


class Squares:
    """The sum of the squares of the embeddings: from zero, each position's own."""

    sites = ("embed",)
    unit = "squares"

    def __call__(self, recording):
        return recording["embed"].pow(2).sum((1, 2))


def test_in_closed_form(llama):
    x = llama.run([IDS], ["embed"])["embed"][0].double()
    found = rs.integrated_gradients(
        llama, [IDS], Squares(), steps=1, progress=False
    )  # one point is exact on a parabola
    torch.testing.assert_close(found.attribution.values, x.pow(2).sum(-1), atol=1e-6, rtol=1e-5)
    assert found.points == (3,)
    y = llama.run([OTHER], ["embed"])["embed"][0].double()
    found = rs.integrated_gradients(llama, [IDS], Squares(), steps=2, **PAIR)
    torch.testing.assert_close(found.attribution.values, (x.pow(2) - y.pow(2)).sum(-1), atol=1e-6, rtol=1e-5)


def test_where_the_metric_is_linear_they_are_gradient_times_activation(llama):
    how = {
        "of": "mlps",
        "layers": [3],
        "positions": "each",
        "background": [edits.freeze("final_scale")],
        "progress": False,
    }
    found = rs.integrated_gradients(llama, [IDS], METRIC, steps=1, **how)
    other = rs.gradient_attribution(llama, [IDS], METRIC, sample=0, **how)
    torch.testing.assert_close(found.attribution.values, other.attribution.values, atol=1e-6, rtol=1e-5)
    bent = rs.integrated_gradients(llama, [IDS], METRIC, **how | {"background": ()})
    assert (bent.attribution.values - other.attribution.values).abs().max() > 1e-3


@pytest.mark.parametrize("metric", [rs.log_prob(5), rs.loss(), rs.logit(9, pos=3)])
def test_any_metric_and_any_baseline(llama, metric):
    m = metric(llama.run([IDS], ["logits"])).double()
    for baseline, over in (("zero", None), ("mean", [OTHER, IDS])):
        cut = edits.ablate("z.2", to=baseline, over=over)
        found = rs.integrated_gradients(
            llama, [IDS], metric, of="heads", layers=[2], baseline=baseline, over=over, progress=False
        )
        lost = m - metric(llama.run([IDS], ["logits"], edits=cut))
        torch.testing.assert_close(found.change.values, lost, atol=1e-5, rtol=1e-4)
        assert abs(found.gap.values[0]) <= 0.05 * abs(lost[0]) + 1e-4


def test_under_edits(llama):
    cut = [edits.ablate("attn_out.1"), edits.freeze("pattern.2")]
    m = METRIC(llama.run([IDS], ["logits"], edits=cut)).double()
    other = METRIC(llama.run([IDS], ["logits"], edits=[*cut, edits.ablate("mlp_out.0")]))
    found = rs.integrated_gradients(llama, [IDS], METRIC, of="mlps", layers=[0], background=cut, progress=False)
    torch.testing.assert_close(found.change.values, m - other, atol=1e-5, rtol=1e-4)
    assert abs(found.gap.values[0]) <= 0.05 * abs(float(m - other)) + 1e-4


class Jump:
    """Smooth but for a step that the gradient knows nothing of."""

    sites = ("embed",)
    unit = "steps"

    def __call__(self, recording):
        length = recording["embed"].pow(2).sum((1, 2))
        return length + 10 * (length > 0.05).to(length)


class Likeliest:
    sites = ("logits",)
    unit = "ids"

    def __call__(self, recording):
        return recording.logits_at(-1, None).argmax(-1).double()


def test_it_refuses(llama):
    with pytest.raises(errors.NotComplete, match="off by 10 of"):
        rs.integrated_gradients(llama, [IDS], Jump(), steps=2, most=40, progress=False)
    with pytest.raises(errors.NoGradient, match="no gradient at embed"):
        rs.integrated_gradients(llama, [IDS], Likeliest(), progress=False)
    with pytest.raises(errors.UnalignedPrompts, match="one for one"):
        rs.integrated_gradients(llama, [IDS], METRIC, baseline="prompt", over=[[2, 3]], progress=False)
    with pytest.raises(errors.BadArguments, match="is of prompts"):
        rs.integrated_gradients(llama, [IDS], METRIC, baseline="mean", progress=False)
    with pytest.raises(errors.BadArguments, match="no such baseline"):
        rs.integrated_gradients(llama, [IDS], METRIC, baseline="noise", progress=False)
    with pytest.raises(errors.BadArguments, match="inputs have no layer"):
        rs.integrated_gradients(llama, [IDS], METRIC, layers=[1], progress=False)
    for f in (rs.integrated_gradients, rs.saliency):
        with pytest.raises(errors.PromptError, match="one prompt"):
            f(llama, [IDS, OTHER], METRIC, progress=False)


@pytest.mark.parametrize("name", PLACES)
def test_saliency_is_plain_autograd_over_the_stock_model(name):
    hf = FAMILIES[name].build()
    ((x, g),) = slopes(hf, name, torch.tensor([IDS]), plain)["inputs"]
    model = Model(hf, name=name)
    found = rs.saliency(model, [IDS], METRIC, progress=False)
    own = model.run([IDS], ["embed"])["embed"]
    factor = float(own.norm() / x.norm())  # Gemma scales them on the way to the stream
    torch.testing.assert_close(found.norm.values, g[0].norm(dim=-1) / factor, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.times_input.values, (x * g)[0].sum(-1), atol=1e-5, rtol=1e-4)
    assert found.norm.values.min() > 0


def test_on_the_default_model_what_differs_is_what_counts(smollm2):
    other = IOI.replace("John gave", "Mary gave")
    m = rs.logit_diff(" Mary", " John")
    found = rs.integrated_gradients(smollm2, IOI, m, baseline="prompt", over=other, steps=6, progress=False)
    change = float(m(smollm2.run(IOI, ["logits"])) - m(smollm2.run(other, ["logits"])))
    assert found.attribution.values[9] == pytest.approx(change, rel=0.05)
    assert not found.attribution.select(pos=[i for i in range(16) if i != 9]).values.any()
    late = rs.integrated_gradients(smollm2, IOI, m, of="heads", layers=[23], steps=6, progress=False)
    assert int(late.attribution.values.argmax()) == 3
