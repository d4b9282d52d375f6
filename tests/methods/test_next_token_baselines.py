"""Baselines: counts by brute force, distributions, planted skip trigrams, and a prompt that is not told its end."""

import math
from itertools import pairwise
from random import Random

import pytest
import torch
from readers import TEXTS, reader

import residscope as rs
from residscope import errors
from residscope.methods._lib.ngrams import Counts

PROMPT = "cab fade"


@pytest.fixture(scope="module")
def model():
    return reader()


@pytest.fixture(scope="module")
def found(model):
    return rs.next_token_baselines(model, PROMPT, text=TEXTS, reach=3, progress=False)


def by_hand(rows, ids, pos, reach, vocab):
    """P1, P2, P3 of the prompt's own next token, from lists of all pairs and skip trigrams."""
    b, c = ids[pos], ids[pos + 1]
    single = [token for row in rows for token in row]
    one = (single.count(c) + 0.1) / (len(single) + 0.1 * vocab)
    follow = [row[i + 1] for row in rows for i in range(len(row) - 1) if row[i] == b]
    two = (follow.count(c) + len(set(follow)) * one) / (len(follow) + len(set(follow))) if follow else one
    three = []
    for a in {*ids[max(0, pos - reach) : pos]}:
        after = [
            row[i + 1] for row in rows for i in range(len(row) - 1) if row[i] == b and a in row[max(0, i - reach) : i]
        ]
        kinds = len(set(after))
        three.append((after.count(c) + kinds * two) / (len(after) + kinds) if after else two)
    return one, two, sum(three) / len(three) if three else two


def test_every_baseline_is_its_formula(model, found):
    ids = model.encode(PROMPT)
    rows = [model.encode(text) for text in TEXTS]
    assert found.provenance["counted tokens"] == sum(map(len, rows))
    for pos in range(len(ids) - 1):
        expected = [math.log(p) for p in by_hand(rows, ids, pos, 3, model.d_vocab)]
        torch.testing.assert_close(found.log_prob.values[1:, pos], torch.tensor(expected))
    assert found.seen[0].tolist() == [sum(row.count(c) for row in rows) for c in ids[1:]]
    pairs = [sum(row[i : i + 2] == [b, c] for row in rows for i in range(len(row))) for b, c in pairwise(ids)]
    assert found.seen[1].tolist() == pairs


def test_the_model_s_row_is_its_loss(model, found):
    losses = rs.token_losses(model, PROMPT, progress=False)
    torch.testing.assert_close(found.log_prob.values[0], -losses.losses.values.float(), atol=1e-5, rtol=1e-5)
    assert found.expected[0] == losses.expected
    torch.testing.assert_close(found.means.values, found.log_prob.values.mean(1))


def test_each_baseline_is_a_distribution(model):
    counts = Counts(model.encode(PROMPT), 4, model.d_vocab)
    for text in TEXTS[:20]:
        counts.add(model.encode(text))
    for pos in range(len(PROMPT)):
        for p in counts.predictions(pos):
            assert abs(float(p.sum()) - 1) < 1e-12
            assert (p > 0).all()


def test_a_planted_skip_trigram_is_known_to_the_skip_trigrams_alone(model):
    """In the text x decides, some tokens before, what follows b; a text in which it does not is the control."""
    drawn = Random(0)
    rule = {"x": "h", "y": "g"}

    def texts(follows):
        kinds = [drawn.choice("xy") for _ in range(300)]
        return [f"{a}{''.join(drawn.choices('cdef', k=3))}b{follows(a)}{a}ccc" for a in kinds]

    means = {}
    for name, follows in (("planted", rule.get), ("control", lambda _: drawn.choice("gh"))):
        report = rs.next_token_baselines(model, "xdcebh", text=texts(follows), reach=4, progress=False)
        means[name] = report.log_prob.select(pos=5).values.exp().tolist()
    assert means["planted"][3] > 0.6
    assert abs(means["planted"][2] - 0.5) < 0.1
    assert abs(means["control"][3] - means["control"][2]) < 0.1


def test_a_row_that_holds_the_prompt_is_not_counted(model):
    prompt = "abcdefgh gfe"
    told = rs.next_token_baselines(model, prompt, text=[*TEXTS, prompt + " dd"], progress=False)
    plain = rs.next_token_baselines(model, prompt, text=TEXTS, progress=False)
    assert told.provenance["rows left out"] == 1
    assert torch.equal(told.log_prob.values, plain.log_prob.values)


def test_it_is_refused_in_words(model):
    with pytest.raises(errors.PromptError, match="two or more"):
        rs.next_token_baselines(model, [[5]], text=TEXTS)
    with pytest.raises(errors.PromptError, match="one prompt"):
        rs.next_token_baselines(model, ["abc", "cde"], text=TEXTS)
    with pytest.raises(errors.CorpusError):
        rs.next_token_baselines(model, "abc", text=["a"])
