"""TCAV: the derivative against finite steps of the stock model, a planted concept and its controls, refusals."""

import numpy as np
import pytest
import torch

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import tiny_llama

DIFF = rs.logit_diff(5, 7)
SITE = "resid_post.3"


def readable():
    """The tiny model, its embeddings long enough to be read beside what the blocks write."""
    hf = tiny_llama()
    with torch.no_grad():
        hf.model.embed_tokens.weight.mul_(100)
    return hf


@pytest.fixture(scope="module")
def of():
    return Model(readable(), name="llama")


def prompts(n, tokens, seed):
    """Random prompts that end with one of some tokens; P is that one, M another place."""
    drawn = torch.Generator().manual_seed(seed)
    rows = [torch.randint(30, 97, (8 + i % 3,), generator=drawn).tolist() for i in range(n)]
    rows = [(*row, tokens[i % len(tokens)]) for i, row in enumerate(rows)]
    return rs.PromptSet(tuple(rows), positions={"P": tuple(len(row) - 1 for row in rows), "M": (3,) * n})


@pytest.fixture(scope="module")
def sets():
    """Sixteen prompts that end in one way, sixteen that end in another, and twelve of either."""
    one, other = (10, 11, 12), (20, 21, 22)
    return prompts(16, one, 0), prompts(16, other, 1), prompts(12, (*one, *other), 2)


def planted(sets, strength):
    """The tiny model with the unembedding of token 5 along the difference of the two kinds' means."""
    hf = readable()
    model, means = Model(hf, name="planted"), []
    for data in sets[:2]:
        run = model.run(data)
        means.append(torch.stack([run[SITE][row, p] for row, p in enumerate(data.at("P"))]).mean(0))
    with torch.no_grad():
        hf.lm_head.weight[5] = hf.lm_head.weight[7] + strength * (means[0] - means[1]) / hf.model.norm.weight
    return Model(hf, name="planted")


def found(model, sets, **more):
    how = {"site": SITE, "position": "P", "draws": 39, "progress": False}
    return rs.tcav(model, *sets, DIFF, **how | more)


@pytest.mark.parametrize(
    ("site", "head", "moved", "position"),
    [("resid_pre.1", None, "position", "M"), ("resid_pre.2", None, "all", "P"), ("z.1", 2, "position", "P")],
)
def test_the_derivative_is_that_of_a_small_step_and_the_score_its_share(of, sets, site, head, moved, position):
    tcav = found(of, sets, site=site, head=head, moved=moved, position=position, draws=10)
    v, asked = tcav.direction, sets[2]
    assert float(v.write.norm()) == pytest.approx(1)
    step, values = 0.03, []  # stock norms round to float32
    for i, p in enumerate(asked.at(position)):
        one = asked.subset([i])
        where = {} if moved == "all" else {"pos": p}
        where |= {} if head is None else {"head": head}
        up, down = (of.run(one, edits=[edits.steer(site, v, s, unit="norm", **where)]) for s in (step, -step))
        values.append(float(DIFF(up) - DIFF(down)) / (2 * step))
    values = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(tcav.derivatives.values, values, atol=3e-5, rtol=0.01)
    assert tcav.score == float((tcav.derivatives.values > 0).double().mean())
    assert tcav.mean == pytest.approx(float(values.mean()), abs=3e-5)
    assert values.abs().max() > 1e-3
    assert tcav.interval[0] <= tcav.score <= tcav.interval[1]


def test_the_vector_points_from_the_others_to_the_concept(of, sets):
    tcav = found(of, sets, draws=10)
    projected = []
    for data in sets[:2]:
        run = of.run(data)
        projected.append([float(run[SITE][row, p] @ tcav.direction.read) for row, p in enumerate(data.at("P"))])
    assert np.mean(projected[0]) > np.mean(projected[1])
    turned = found(of, (sets[1], sets[0], sets[2]), draws=10)
    assert turned.direction.cosine(tcav.direction) < -0.95


def test_a_planted_concept_is_found_and_examples_dealt_out_at_random_are_no_concept(sets):
    model = planted(sets, 2.0)
    concept = found(model, sets)
    assert concept.score == 1
    assert concept.mean > 0
    assert concept.p_mean < 0.06
    assert concept.accuracy > concept.random_accuracy + 0.2
    mixed = [prompts(16, (10, 11, 12, 20, 21, 22), seed) for seed in (5, 6)]
    blind = found(model, (*mixed, sets[2]))
    assert blind.p_mean > 0.06
    assert blind.accuracy < concept.accuracy - 0.2


def test_the_same_seed_the_same_numbers_and_a_view(of, sets):
    one, two = (found(of, sets, draws=10, seed=3) for _ in range(2))
    assert one == two
    assert one.random.dims == ("control", "draw")
    assert 0 < one.p <= 1
    assert one.view().views[0].title == "TCAV"
    assert "rise" in repr(one)
    assert one.mean_interval[0] < one.mean_interval[1]


def test_what_is_refused(of, sets):
    few = sets[0].subset(range(4))
    with pytest.raises(errors.BadSweep, match="examples"):
        found(of, (few, sets[1], sets[2]))
    with pytest.raises(errors.ZeroDirection, match="the same"):
        found(of, (sets[0], sets[0], sets[2]), draws=10)
    with pytest.raises(errors.UnknownPosition, match="name no positions"):
        found(of, (sets[0], sets[1], [[2, 3, 4]]))
    with pytest.raises(errors.UnknownPosition, match="shortest"):
        found(of, sets, position=-50)
    with pytest.raises(errors.NoVectors):
        found(of, sets, site="pattern.1")
    with pytest.raises(errors.UnknownHead):
        found(of, sets, site="z.1")
