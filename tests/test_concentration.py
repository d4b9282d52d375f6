"""How few cells carry an effect: by hand, and of sweeps, which say what a cell without effect has."""

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.results import Result

METRIC = rs.logit_diff(5, 7)
PAIR = ([list(range(2, 11))], [list(range(32, 41))])


def spread(values, **told):
    return Result(torch.as_tensor(values, dtype=torch.float64), ("layer", "head"), name="effect", **told)


@pytest.mark.parametrize(("share", "cells"), [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.95, 3), (1.0, 3)])
def test_the_fewest_cells_that_carry_the_share(share, cells):
    found = spread([[0.0, 6.0], [-3.0, 1.0]]).concentration(share)
    assert (found.cells, found.of, found.share) == (cells, 4, share)
    assert found.participation == pytest.approx(100 / 46)


def test_one_cell_and_an_even_spread():
    lone = spread([[0.0, 0.0], [0.0, -2.0]])
    even = spread([[1.0, -1.0], [-1.0, 1.0]])
    found = lone.concentration(control=even)
    assert (found.cells, found.participation) == (1, 1)
    assert (found.control.cells, found.control.participation) == (4, 4)
    assert str(found).startswith("1 of 4 cells")
    assert str(found).endswith("control: 4 of 4 (4)")
    nothing = spread([[0.0, 0.0]]).concentration()
    assert (nothing.cells, nothing.participation) == (0, 0)


def test_what_has_no_effect_is_taken_off_prompt_by_prompt():
    effects = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [-2.0, 2.0]]], dtype=torch.float64)
    told = torch.tensor([10.0, -4.0], dtype=torch.float64)
    found = Result(effects + told, ("layer", "head", "prompt"), name="m", provenance={"no effect": told.tolist()})
    assert found.concentration().cells == 1  # of the means over prompts 2, 0, 0, 0
    assert found.mean("prompt").concentration() == found.concentration()
    assert found.select(prompt=1).concentration(0.6).cells == 1
    assert found.select(prompt=1).concentration().cells == 2
    assert found.select(prompt=[1]).concentration() == found.select(prompt=1).concentration()
    assert found.concentration(zero=0).cells > 1
    strange = Result(found.values, found.dims, {"prompt": ("a", "b")}, provenance=dict(found.provenance))
    with pytest.raises(errors.BadResult, match="zero="):
        strange.concentration()


def test_what_is_no_share_and_no_number_is_refused():
    with pytest.raises(errors.BadResult, match="share"):
        spread([[1.0, 2.0]]).concentration(0)
    with pytest.raises(errors.BadResult, match="1 of 2 not finite"):
        spread([[1.0, float("nan")]]).concentration()
    with pytest.raises(errors.BadResult, match="no values"):
        Result(torch.zeros(0), ("layer",)).concentration()


@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_a_sweep_says_what_a_cell_without_effect_has(llama, mode):
    found = rs.activation_patching(llama, *PAIR, METRIC, mode=mode, progress=False)
    share = rs.activation_patching(llama, *PAIR, METRIC, mode=mode, normalize=True, progress=False)
    end = METRIC(llama.run(PAIR[mode == "denoise"], ["logits"]))[0]
    by_hand = Result(found.values - end, found.dims).concentration()
    assert (found.concentration().cells, share.concentration().cells) == (by_hand.cells, by_hand.cells)
    assert found.concentration().participation == pytest.approx(by_hand.participation)
    assert f"{by_hand.cells} of 36 cells" in found.view().note
    nothing = rs.activation_patching(llama, PAIR[0], PAIR[0], METRIC, progress=False)
    assert nothing.concentration(control=found).control == found.concentration()


def test_an_ablation_s_effect_is_what_it_takes_away(llama):
    found = rs.ablation_sweep(llama, PAIR[0], METRIC, progress=False)
    less = rs.ablation_sweep(llama, PAIR[0], METRIC, relative=True, progress=False)
    assert found.concentration().cells == less.concentration().cells < 16
    assert found.concentration().participation == pytest.approx(less.concentration().participation)
