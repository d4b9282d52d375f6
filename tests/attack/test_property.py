"""Random stacks of edits through every way in give the reference's numbers: new cases each run, by RESIDSCOPE_SEED."""

import os
from dataclasses import replace

import pytest
import torch
from families import FAMILIES

from attack.cases import GENERATORS, Case, draw, shown, world
from attack.found import FOUND
from attack.hunt import DOORS, attempt, hunt, smallest
from residscope.edits import KINDS
from residscope.edits.saved import LATER
from residscope.edits.values import Noise, Scale

SECONDS, CASES = 20, 100


def test_random_stacks_give_the_reference_s_numbers_through_every_way_in():
    seed = os.environ["RESIDSCOPE_SEED"]
    found = hunt(seed, seconds=SECONDS, doors=3, cases=CASES, most=5)
    assert not found.failures, f"RESIDSCOPE_SEED={seed}\n" + "\n\n".join(map(str, found.failures))
    assert sum(found.tried.values()) > 30


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_before_stays_right(name):
    door, cases = FOUND[name]
    for case in cases:
        failure, _, unfit = attempt(door, case)
        assert failure is None, str(failure)
        assert unfit is None or unfit.startswith("refused, as documented")


def test_every_kind_of_edit_has_a_generator():
    assert GENERATORS.keys() == KINDS.keys() - LATER.keys()


def test_every_kind_is_drawn_at_every_site_of_every_family():
    kinds: dict[str, set[str]] = {}
    for family in FAMILIES:
        cases = [draw(f"coverage-{i}", family) for i in range(120)]
        wiring, every = world(family).wiring, [spec for case in cases for spec in case.stack]
        assert {spec["kind"] for spec in every} == GENERATORS.keys()
        drawn = {spec["site"].partition(".")[0] for spec in every if spec["kind"] != "overlay"}
        assert {*wiring.names} <= drawn, family
        overlaid = {spec["site"] for spec in every if spec["kind"] == "overlay"}
        assert {wiring.family.unembed, wiring.family.embed} <= overlaid, family
        for spec in every:
            kinds.setdefault(spec["site"].partition(".")[0], set()).add(spec["kind"])
    assert all(
        len(kinds[name]) >= 4
        for name in ("final_scale", "final_norm", "logits", "router", "embed", "pos_embed", "q_scale")
    )


def test_a_seed_draws_one_case():
    assert str(draw("same")) == str(draw("same")) != str(draw("other"))


PLANTED = Case(
    "llama",
    ((5, 9, 20, 33), (7, 8, 40)),
    (
        {"kind": "ablate", "site": "mlp_out.0", "to": "zero", "pos": [1]},
        {"kind": "scale", "site": "resid_pre.1", "factor": 1.5, "pos": [-2]},
        {"kind": "noise", "site": "v.2", "sigma": 0.3, "seed": 4},
    ),
    "planted",
)


@pytest.mark.parametrize("door", [name for name in DOORS if name != "session"])
def test_a_planted_fault_is_found_and_brought_down_to_its_edit(door, monkeypatch):
    draws = [replace(PLANTED, seed=f"planted-{i}") for i in range(4)]
    assert not any(attempt(door, case)[0] for case in draws)
    monkeypatch.setattr(Scale, "change", lambda self, value, at: value * (self.factor + 0.1))
    failures = [failure for case in draws if (failure := attempt(door, case)[0])]
    least = smallest(failures[0]).case
    assert [spec["kind"] for spec in least.stack] in (["scale"], ["scale", "noise"], ["ablate", "scale"])
    assert len(least.rows) == 1
    assert shown(PLANTED.stack[1]) in str(least)


def test_draws_that_follow_the_batch_and_not_the_prompt_are_found(monkeypatch):
    """Noise by a row's place in a pass would be right in a run of all prompts, and wrong in a sweep."""
    change = Noise.change

    def by_place(self, value, at):
        return change(self, value, replace(at, batch=replace(at.batch, rows=None)))

    case = Case(
        "llama", ((5, 9, 20, 33), (7, 8, 40)), ({"kind": "noise", "site": "v.2", "sigma": 0.3, "seed": 4, "pos": [-1]},)
    )
    monkeypatch.setattr(Noise, "change", by_place)
    assert attempt("run", case)[0] is None
    assert any(attempt("cell", Case(case.family, case.rows, case.stack, f"place-{i}"))[0] for i in range(6))


def test_the_models_are_in_float64():
    assert all(world(family).model.dtype == torch.float64 for family in FAMILIES)
