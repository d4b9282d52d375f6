"""Every sweep over prompts with answers says what the checklist says of them, and nothing where there are no answers."""

from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope.engine.model import Model
from residscope.methods._lib.checklist import KEY, verdict
from residscope.model.prompts import PromptSet
from tiny_models import tiny_llama

ROWS = ((3, 14, 15, 9, 26), (5, 35, 8, 9, 79), (32, 3, 8, 46, 26))
OTHERS = ((3, 14, 16, 9, 26), (5, 36, 8, 9, 79), (32, 4, 8, 46, 26))


@pytest.fixture(scope="module")
def model():
    return Model(tiny_llama(layers=2), None)


@pytest.fixture(scope="module")
def data(model):
    return PromptSet(
        ROWS, OTHERS, ((7, 8), (9, 10), (11, 12)), labels={"template": (0, 0, 1)}, positions={"P": (2, 1, 1)}
    )


SWEEPS = {
    "activation_patching": lambda model, data, **more: rs.activation_patching(
        model, data, None, rs.logit_diff(), site="z", **more
    ),
    "attribution_patching": lambda model, data, **more: rs.attribution_patching(
        model, data, None, rs.logit_diff(), site="z", sample=0, **more
    ),
    "path_patching": lambda model, data, **more: rs.path_patching(model, data, None, rs.logit_diff(), **more),
    "edge_patching": lambda model, data, **more: rs.edge_patching(
        model, data, None, rs.logit_diff(), receivers=[1], **more
    ),
    "edge_attribution": lambda model, data, **more: rs.edge_attribution(
        model, data, None, rs.logit_diff(), sample=0, **more
    ),
    "causal_tracing": lambda model, data, **more: rs.causal_tracing(
        model, data, "P", rs.logit_diff(), positions=["P"], draws=1, **more
    ),
    "ablation_sweep": lambda model, data, **more: rs.ablation_sweep(model, data, rs.logit_diff(), **more),
    "compare_ablations": lambda model, data, **more: (
        rs.compare_ablations(model, data, rs.logit_diff(), over=PromptSet(OTHERS), draws=1, **more).zero
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_says_what_the_check_says(model, data, name):
    found, checked = SWEEPS[name](model, data), rs.task_check(model, data)
    told = found.provenance[KEY]
    assert told["passed"] == checked.passed
    assert set(told["failed"]) == {line.name for line in checked.lines if line.passed is False}
    for line in checked.lines:
        if line.passed is not None:
            assert told[line.name] == pytest.approx(line.value, rel=1e-9), line.name
    shown = found.select(prompt=0) if "prompt" in found.dims else found
    assert f"Task check {told['said']}." in shown.view().note


def test_the_words_are_by_plain_forwards(model, data):
    """Accuracy and rank of the stock model's logits; a set whose answers are exchanged is told so."""
    with torch.no_grad():
        logits = model.hf(torch.tensor(ROWS)).logits[:, -1]
    right, wrong = (logits.gather(1, torch.tensor(data.answers))[:, i] for i in (0, 1))
    told = verdict(model, data)[KEY]
    assert told["accuracy"] == float((right > wrong).double().mean())
    assert told["answer rank"] == float((logits > right[:, None]).sum(1).double().mean())
    turned = replace(data, answers=tuple(pair[::-1] for pair in data.answers))
    assert verdict(model, turned)[KEY]["accuracy"] == pytest.approx(1 - told["accuracy"])
    assert verdict(model, data, PromptSet(ROWS))[KEY]["partner flips the answer"] == 0


def test_without_answers_nothing_is_said(model, data):
    assert verdict(model, replace(data, answers=None)) == {}
    assert verdict(model, [[1, 2, 3]]) == {}
    found = rs.ablation_sweep(model, [[1, 2, 3]], rs.logit_diff(7, 8))
    assert KEY not in found.provenance
    assert "Task check" not in found.view().note


def test_answers_that_are_no_token_stop_no_sweep(smollm2):
    data = PromptSet(("a b c",), answers=((" unhelpfulness", " b"),))
    found = rs.ablation_sweep(smollm2, data, rs.logit_diff(" a", " b"), layers=[29])
    assert found.provenance[KEY]["passed"] is None
    assert "not one token" in found.view().note
