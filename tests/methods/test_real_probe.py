"""On SmolLM2: the pronoun follows what LRQP writes at the name, and nothing else that is written does that."""

import pytest

import residscope as rs
from residscope.methods._lib.answers import answer_diffs, flips
from residscope.methods.probes.probe_sweep import fit_probes
from residscope.probes.lrqp import random_control


@pytest.fixture(scope="module")
def pronouns(smollm2):
    train, test = rs.tasks.gender(smollm2, 80).split(by="gender")
    probes = fit_probes(smollm2, train, sites=["resid_pre.6"], positions=["NAME", "END"], label="gender", held_out=test)
    name, end = probes["resid_pre.6", "NAME"], probes["resid_pre.6", "END"]
    other = rs.lrqp(name, to="other")
    cells = {
        "clean": [], "other": [other], "true": [rs.lrqp(name, to="true")], "at END": [rs.lrqp(end, to="other")],
        "random": [random_control(other, name, seed=0)], "leace": [rs.concepts.leace(name)],
        "mean": [rs.concepts.mean_difference(name, to="other")],
    }  # fmt: skip
    answers = dict(zip(cells, answer_diffs(smollm2, test, list(cells.values())), strict=True))
    return name, end, {cell: flips(answers["clean"], edited) for cell, edited in answers.items()}


def test_gender_is_read_at_the_name(pronouns):
    name, end, found = pronouns
    assert name.accuracy > 0.95
    assert end.accuracy > 0.85
    assert 0.25 < name.control < 0.75
    assert found["clean"].right == 40


def test_rewriting_the_name_flips_the_pronoun_and_the_controls_do_not(pronouns):
    _, _, found = pronouns
    assert found["other"].rate > 0.9
    assert found["mean"].rate > 0.9
    assert found["true"].rate == 0
    assert found["random"].rate == 0
    assert found["random"].mean_absolute_shift < 0.1 * found["other"].mean_absolute_shift
    assert 0.2 < found["leace"].mean_absolute_shift / found["other"].mean_absolute_shift < 0.8


def test_what_can_be_read_at_the_end_is_not_used_there(pronouns):
    """Six layers in, END reads the gender too, but rewriting it there moves nothing: read is not used."""
    _, _, found = pronouns
    assert found["at END"].rate == 0
    assert found["at END"].mean_absolute_shift < 0.3
