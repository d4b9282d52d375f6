"""The checklist against plain forwards of the stock model, and planted bad tasks that fail the lines they should."""

from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope import errors

SMALL = 12


@pytest.fixture(scope="module")
def smollm2():
    return rs.load("smollm2-135m")


@pytest.fixture(scope="module")
def ioi(smollm2):
    return rs.tasks.ioi(smollm2, SMALL, prefixes=False)


@pytest.fixture(scope="module")
def found(smollm2, ioi):
    return rs.task_check(smollm2, ioi, batch=5, progress=False)


def plain(model, rows):
    with torch.no_grad():
        return [model.hf(torch.tensor([row])).logits[0, -1] for row in rows]


def test_ioi_against_plain_forwards(smollm2, ioi, found):
    ids = [[smollm2.tokenizer.encode(token)[0] for token in pair] for pair in ioi.answers]
    own, other = plain(smollm2, ioi.prompts), plain(smollm2, ioi.corrupted)
    d = torch.tensor([float(x[a] - x[b]) for x, (a, b) in zip(own, ids, strict=True)]).double()
    partner = torch.tensor([float(x[a] - x[b]) for x, (a, b) in zip(other, ids, strict=True)]).double()
    ranks = [x.argsort(descending=True).tolist().index(a) for x, (a, _) in zip(own, ids, strict=True)]
    mass = torch.tensor([float(x.softmax(-1)[pair].sum()) for x, pair in zip(own, ids, strict=True)])
    torch.testing.assert_close(found.differences.values, torch.stack([d, partner]), atol=1e-3, rtol=1e-4)
    assert found.rank.tolist() == ranks
    torch.testing.assert_close(found.mass.float(), mass, atol=1e-4, rtol=1e-3)
    right = d > 0
    expected = {
        "accuracy": float(right.double().mean()),
        "answer rank": sum(ranks) / SMALL,
        "logit difference over swaps": float((d - partner).mean() / 2),
        "partner flips the answer": float((partner[right] < 0).double().mean()),
        "equal token counts": 1.0,
        "answer mass": float(mass.mean()),
    }
    for name, value in expected.items():
        assert found.line(name).value == pytest.approx(value, abs=1e-3), name
        ends = found.line(name).interval
        assert ends is None or ends[0] <= value <= ends[1]
    for template, (n, accuracy, mean) in found.groups.items():
        rows = [i for i, t in enumerate(ioi.label("template")) if str(t) == template]
        assert (n, accuracy) == (len(rows), float(right[rows].double().mean()))
        assert mean == pytest.approx(float(d[rows].mean()), abs=1e-3)
    assert found.line("accuracy").passed
    assert found.line("partner flips the answer").passed
    assert found.line("spread over templates").value == min(accuracy for _, accuracy, _ in found.groups.values())


def test_answers_the_wrong_way_round_fail(smollm2, ioi, found):
    turned = rs.task_check(smollm2, replace(ioi, answers=tuple((b, a) for a, b in ioi.answers)), progress=False)
    torch.testing.assert_close(turned.differences.values, -found.differences.values, atol=1e-4, rtol=1e-4)
    assert not turned.passed
    failed = {line.name for line in turned.lines if line.passed is False}
    assert {"accuracy", "logit difference over swaps", "spread over templates"} <= failed
    assert turned.line("equal token counts").passed
    assert turned.line("answer mass").value == pytest.approx(found.line("answer mass").value, abs=1e-5)


def test_partners_that_change_nothing_fail_their_lines_alone(smollm2, ioi, found):
    idle = rs.task_check(smollm2, replace(ioi, corrupted=ioi.prompts), progress=False)
    assert idle.line("logit difference over swaps").value == pytest.approx(0, abs=1e-4)
    assert idle.line("partner flips the answer").value == 0
    failed = {line.name for line in idle.lines if line.passed is False}
    assert failed >= {"logit difference over swaps", "partner flips the answer"}
    before = {line.name for line in found.lines if line.passed is False}
    assert failed - before == {"logit difference over swaps", "partner flips the answer"}


def test_unequal_partners_and_unlikely_answers_fail(smollm2, ioi):
    longer = (ioi.corrupted[0] + ioi.corrupted[0][-1:], *ioi.corrupted[1:])
    bad = replace(ioi, corrupted=longer, answers=((" cabbage", " zebra"),) * SMALL)
    found = rs.task_check(smollm2, bad, progress=False)
    assert found.line("equal token counts").value == (SMALL - 1) / SMALL
    assert {line.name: line.passed for line in found.lines}.items() >= {
        "equal token counts": False, "answer mass": False, "answer rank": False,
    }.items()  # fmt: skip


def test_what_the_data_cannot_tell_is_not_known(smollm2, ioi):
    bare = rs.PromptSet(ioi.prompts[:2], answers=ioi.answers[:2])
    found = rs.task_check(smollm2, bare, progress=False)
    unknown = {line.name for line in found.lines if line.passed is None}
    assert unknown == {
        "logit difference over swaps", "partner flips the answer", "equal token counts", "spread over templates",
    }  # fmt: skip
    assert [*found.differences.coords["run"]] == ["prompt"]
    assert found.view().to_dict()["views"][0]["rows"][2][1] is None
    with pytest.raises(errors.MissingLabel, match="no answers"):
        rs.task_check(smollm2, rs.PromptSet(ioi.prompts[:2]))
    with pytest.raises(errors.MissingLabel, match="no such label"):
        rs.task_check(smollm2, bare, by="template")
    with pytest.raises(errors.MissingLabel, match="no such line"):
        found.line("charm")
    with pytest.raises(errors.TooFewPrompts, match="no prompt"):
        rs.task_check(smollm2, bare.subset([]))


def test_it_comes_back_from_its_file(found, tmp_path):
    found.save(tmp_path / "check.safetensors")
    assert rs.load_item(tmp_path / "check.safetensors") == found
