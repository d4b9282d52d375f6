"""A number over a task: the mean of plain forwards, prompt by prompt; an interval around it; what has none is refused."""

from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope import errors

N = 4


@pytest.fixture(scope="module")
def ioi(smollm2):
    return rs.tasks.ioi(smollm2, N, prefixes=False)


@pytest.fixture(scope="module")
def plain(smollm2, ioi):
    """Of each prompt the stock model's logits at its end, its stream there row by row, and the ids of its answers."""
    hf, found = smollm2.hf, []
    stream: list[torch.Tensor] = []
    parts = [hf.model.embed_tokens, *hf.model.layers]
    hooks = [part.register_forward_hook(lambda _, __, out: stream.append(out[0, -1])) for part in parts]
    with torch.no_grad():
        for row, pair in zip(ioi.prompts, ioi.answers, strict=True):
            stream.clear()
            logits = hf(torch.tensor([row])).logits[0, -1]
            found.append((logits, [*stream], [smollm2.tokenizer.encode(token)[0] for token in pair]))
    for hook in hooks:
        hook.remove()
    return found


def averaged(model, data, **args):
    result = rs.task_average(model, data, progress=False, **args)
    assert bool((result.low <= result.values).all())
    assert bool((result.values <= result.high).all())
    assert result.provenance["prompts"] == len(data)
    assert "prompts answered right" in result.provenance["task check"]["said"]
    return result


def test_the_metric_is_the_mean_of_plain_forwards(smollm2, ioi, plain):
    d = torch.tensor([float(x[a] - x[b]) for x, _, (a, b) in plain]).double()
    found = averaged(smollm2, ioi)
    assert float(found.values) == pytest.approx(float(d.mean()), abs=1e-3)
    assert float(d.min()) <= float(found.low) < float(found.high) <= float(d.max())


def test_the_lens_is_the_mean_probability_of_each_row(smollm2, ioi, plain):
    hf, found = smollm2.hf, averaged(smollm2, ioi, of="lens")
    assert (found.unit, found.coords["row"][0], len(found.coords["row"])) == ("probability", "embedding", 31)
    with torch.no_grad():
        for row in (0, 11, 30):
            p = [float(hf.lm_head(hf.model.norm(x[row])).softmax(-1)[a]) for _, x, (a, _) in plain]
            assert float(found.values[row]) == pytest.approx(sum(p) / N, abs=1e-5)


def test_heads_and_components_sum_to_the_metric(smollm2, ioi, plain):
    d = torch.tensor([float(x[a] - x[b]) for x, _, (a, b) in plain]).double()
    components = averaged(smollm2, ioi, of="components")
    assert float(components.values.sum()) == pytest.approx(float(d.mean()), abs=2e-3)
    heads = averaged(smollm2, ioi, of="heads")
    one = [
        float(rs.attribute_logits(smollm2.run(list(row)), rs.logit_diff(*pair)).heads.select(layer=23, head=3).values)
        for row, pair in zip(ioi.prompts, ioi.answers, strict=True)
    ]
    assert float(heads.select(layer=23, head=3).values) == pytest.approx(sum(one) / N, abs=1e-3)


def test_attention_is_the_mean_weight_between_named_tokens(smollm2, ioi):
    found = averaged(smollm2, ioi, of="attention", query="END", key="S2")
    one = [
        float(smollm2.run(list(row), capture=["pattern.23"])["pattern.23"][0, 3, q, k])
        for row, q, k in zip(ioi.prompts, ioi.at("END"), ioi.at("S2"), strict=True)
    ]
    assert float(found.values[23, 3]) == pytest.approx(sum(one) / N, abs=1e-5)
    assert float(found.values[23, 3]) > 0.3, "it looks there"
    assert float(averaged(smollm2, ioi, of="attention", query="END", key="S1+1").values[23, 3]) < 0.3


def test_patching_is_the_share_of_the_mean_gap(smollm2, ioi):
    found = averaged(smollm2, ioi, of="patch", site="attn_out", positions=["END"])
    each = rs.activation_patching(
        smollm2, ioi, None, rs.logit_diff(), site="attn_out", positions=["END"], progress=False
    )
    clean, corrupted = (torch.tensor(each.provenance[end]).double() for end in ("clean", "corrupted"))
    share = (each.values.double().mean(-1) - corrupted.mean()) / (clean.mean() - corrupted.mean())
    torch.testing.assert_close(found.values, share, atol=1e-6, rtol=1e-5)
    assert found.unit == "share"
    assert found.provenance["no effect"] == 0.0
    assert found.view().low is not None


def test_what_has_no_average_is_refused(smollm2, ioi):
    with pytest.raises(errors.TooFewPrompts, match="several"):
        rs.task_average(smollm2, ioi.subset([0]))
    with pytest.raises(errors.BadArguments, match="one named token"):
        rs.task_average(smollm2, ioi, of="attention", query="END", progress=False)
    with pytest.raises(errors.BadArguments, match="no such number"):
        rs.task_average(smollm2, ioi, of="mood")
    with pytest.raises(errors.MissingLabel):
        rs.task_average(smollm2, replace(ioi, answers=None))
    alone = replace(ioi, corrupted=None)
    with pytest.raises(errors.BadSweep, match="no corrupted"):
        rs.task_average(smollm2, alone, of="patch", progress=False)
    with pytest.raises(errors.BadSweep, match="at the mean"):
        rs.task_average(
            smollm2, replace(ioi, corrupted=ioi.prompts), of="patch", site="attn_out", positions=["END"], progress=False
        )
