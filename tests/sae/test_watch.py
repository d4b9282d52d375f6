"""Loading and checking tell how far they are, stop where they are asked to, and leave the model as it was."""

import threading

import pytest
import torch
from bundles import encoder, spelling

import residscope as rs
from methods.readers import TEXTS
from residscope import errors
from sae.written import saelens, weights
from tiny_models import hook_count


def calls(tmp_path):
    saelens(tmp_path / "sae", weights(d=32), d_in=32, hook_name="blocks.1.hook_resid_pre")
    return {
        "fit_check": lambda **watch: rs.sae.fit_check(spelling(), encoder(), TEXTS, tokens=300, **watch),
        "load": lambda **watch: rs.sae.load(tmp_path / "sae", spelling(), check=False, **watch),
    }


@pytest.mark.parametrize("name", ["fit_check", "load"])
def test_each_step_is_told_and_may_be_the_last(tmp_path, name):
    call, told = calls(tmp_path)[name], []
    call(progress=lambda *step: told.append(step))
    stages = {}
    for what, done, total in told:
        stages.setdefault((what, total), []).append(done)
    assert all(done == sorted({*done}) and done[0] == 0 and done[-1] == total for (_, total), done in stages.items()), (
        told
    )
    before = spelling().run([2, 3, 4]).logits
    for at in range(len(told) - 1):
        stop, seen = threading.Event(), []

        def progress(*step, at=at, stop=stop, seen=seen):
            seen.append(step)
            if len(seen) > at:
                stop.set()

        with pytest.raises(errors.Cancelled):
            call(progress=progress, cancel=stop)
        assert hook_count(spelling().hf) == 0
    assert torch.equal(spelling().run([2, 3, 4]).logits, before)
