"""Causal tracing: every number is the mean of plain forwards with torch's own hooks, over the same noise."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model

METRIC = rs.logit_diff(5, 7)
TEXT = [5, 9, 3, 17, 8, 2, 11]
SUBJECT, DRAWS = [1, 2], 3
BLOCKS = {
    "gpt2": lambda hf: (hf.transformer.wte, hf.transformer.h),
    "llama": lambda hf: (hf.model.embed_tokens, hf.model.layers),
    "gpt_neox": lambda hf: (hf.gpt_neox.embed_in, hf.gpt_neox.layers),
}


@pytest.fixture(scope="module", params=BLOCKS)
def model(request):
    return Model(FAMILIES[request.param].build().float(), name=request.param)


def plain(model, noise, restored, pos):
    """The metric of the stock model with noise added to the embedding, and clean block outputs put back, by forward hooks."""
    embed, blocks = BLOCKS[model.name](model.hf)
    handles = [embed.register_forward_hook(lambda _, __, out: out + noise.to(out))]

    def put(clean):
        def hook(_, __, out):
            stream = out[0] if isinstance(out, tuple) else out
            stream = stream.clone()
            stream[:, pos] = clean[:, pos]
            return (stream, *out[1:]) if isinstance(out, tuple) else stream

        return hook

    handles += [blocks[layer].register_forward_hook(put(clean)) for layer, clean in restored.items()]
    try:
        with torch.no_grad():
            logits = model.hf(torch.tensor([TEXT])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[5] - logits[7])


@pytest.mark.parametrize("window", [1, 3])
def test_every_state_is_a_plain_forward_with_hooks(model, window):
    found = rs.causal_tracing(model, [TEXT], SUBJECT, METRIC, window=window, draws=DRAWS, seed=4, progress=False)
    assert found.dims == ("layer", "pos")
    clean = model.run([TEXT], ["embed", "resid_post"])
    assert found.provenance["standard deviation of the noise"] == pytest.approx(
        3 * float(clean["embed"][0, SUBJECT].double().std())
    )
    size = found.provenance["standard deviation of the noise"]
    drawn = model.run([TEXT] * DRAWS, ["embed"], edits=edits.noise("embed", size, 4, pos=SUBJECT))["embed"]
    noises = [drawn[i : i + 1] - clean["embed"] for i in range(DRAWS)]
    assert min(float(noise[:, SUBJECT].abs().mean()) for noise in noises) > size / 3
    without = [plain(model, noise, {}, 0) for noise in noises]
    for layer, pos in ((0, 1), (1, 6), (model.n_layers - 1, 2)):
        span = range(max(0, layer - window // 2), min(model.n_layers, layer + (window + 1) // 2))
        values = {at: clean[f"resid_post.{at}"] for at in span}
        effects = [plain(model, noise, values, pos) - base for noise, base in zip(noises, without, strict=True)]
        assert float(found.values[layer, pos]) == pytest.approx(sum(effects) / DRAWS, abs=2e-5)
        assert (
            min(effects) - 2e-5 <= float(found.low[layer, pos]) <= float(found.high[layer, pos]) <= max(effects) + 2e-5
        )
    total = float(METRIC(clean)) - sum(without) / DRAWS
    assert found.provenance["total effect"][0] == pytest.approx(total, abs=2e-5)
    assert float(found.values[-1, -1]) == pytest.approx(total, abs=2e-5)  # the last state is all that the logits read
    assert float(found.values[:, 0].abs().max()) < 1e-6  # what stands before the subject never changed


def test_several_prompts_by_name_are_each_its_own(llama):
    rows, at = ([5, 9, 3, 17, 8, 2, 11], [4, 8, 15, 16, 23, 42, 6, 3, 9]), {"S": (2, 4), "END": (6, 8)}
    data = rs.PromptSet(tuple(map(tuple, rows)), answers=((5, 7), (9, 4)), positions=at)
    asked = {"site": "mlp_out", "window": 2, "positions": ["S", "END"], "draws": 2, "progress": False}
    found = rs.causal_tracing(llama, data, "S", rs.logit_diff(), **asked)
    assert found.dims == ("layer", "pos", "prompt")
    assert found.provenance["subject"] == [[2], [4]]
    size = found.provenance["standard deviation of the noise"]
    several = [*rows, *rows]
    clean, effects = llama.run(several, ["embed", "mlp_out"]), []
    noised = llama.run(several, ["embed"], edits=edits.noise("embed", size, 0))["embed"]
    for i, row in enumerate(several):
        pos, wanted = at["S"][i % 2], clean["embed"][i : i + 1, : len(row)].clone()
        wanted[:, pos] = noised[i, pos]
        stack = [edits.patch("embed", {"embed": wanted})]
        metric = rs.logit_diff(*data.answers[i % 2])
        back = [
            edits.patch(
                f"mlp_out.{layer}", {f"mlp_out.{layer}": clean[f"mlp_out.{layer}"][i : i + 1, : len(row)]}, pos=pos
            )
            for layer in (1, 2)
        ]
        a, b = (float(metric(llama.run([row], ["logits"], edits=e))) for e in (stack, [*stack, *back]))
        effects.append(b - a)
    means = torch.tensor(effects, dtype=torch.float64).reshape(2, 2).mean(0)
    torch.testing.assert_close(found.values[2, 0], means, atol=1e-8, rtol=1e-6)


def test_more_noise_hides_more_and_its_seed_is_its_own(llama):
    def total(**asked):
        found = rs.causal_tracing(llama, [TEXT], [1], METRIC, layers=[3], draws=6, progress=False, **asked)
        return found.provenance["total effect"][0], found

    assert abs(total(sigma=1e-4)[0]) < abs(total()[0])
    assert total(seed=1)[0] != total()[0] == total()[0]
    wide = total(over=[[2, 3, 4, 5, 6]])[1].provenance
    embed = llama.run([[2, 3, 4, 5, 6]], ["embed"])["embed"]
    assert wide["standard deviation of the noise"] == pytest.approx(3 * float(embed.std()))
    assert total()[1].exact is True
    assert rs.causal_tracing(llama, [TEXT], [1], METRIC, layers=[3], draws=1, progress=False).low is None


def test_it_is_refused_in_words(llama):
    with pytest.raises(errors.UnknownPosition, match="subject=9"):
        rs.causal_tracing(llama, [TEXT], [9], METRIC)
    with pytest.raises(errors.UnknownPosition, match="'S2'"):
        rs.causal_tracing(llama, [TEXT], "S2", METRIC)
    with pytest.raises(errors.BadSweep, match="no tokens"):
        rs.causal_tracing(llama, [TEXT], [], METRIC)
    for wrong in ({"draws": 0}, {"window": 0}, {"sigma": 0.0}):
        with pytest.raises(errors.BadSweep, match="nothing to trace"):
            rs.causal_tracing(llama, [TEXT], [1], METRIC, **wrong)
