"""`wb.companion`: read and set, called back, and told as Python."""

import threading
from typing import Any

import pytest
import torch

import residscope as rs
from in_notebook.test_history import last, ran
from in_notebook.test_workbench import shown
from residscope.errors import BadArguments, BadPrompt, EmptyPrompt


def test_code_and_page_set_it_and_read_it(wb: rs.Workbench) -> None:
    heard: list[tuple[str, Any]] = []
    came = threading.Event()
    wb.on_change(lambda name, value: (heard.append((name, value)), came.set()), "companion")
    assert wb.companion is None
    wb.companion = "an other"
    assert wb.session.snapshot()[1]["companion"]["text"] == "an other"
    assert came.wait(10)
    assert heard == [("companion", "an other")]
    wb.session.intent("set_companion", {"text": "one more"})
    assert wb.companion == "one more"
    wb.companion = None
    assert wb.session.snapshot()[1]["companion"] is None
    for wrong, error in (("", EmptyPrompt), (["a"], BadPrompt)):
        with pytest.raises(error):
            wb.companion = wrong


def test_a_patch_from_it_is_told_as_python_that_gives_its_logits(wb: rs.Workbench) -> None:
    wb.companion = "an other"
    patch = {"kind": "patch", "site": "resid_pre.1", "source": {"kind": "companion"}, "align": "tokens"}
    wb.session.intent("add_edit", {"edit": patch})
    logits = shown(wb)
    names = ran(wb)
    assert names["companion"] == "an other"
    assert torch.equal(last(names), logits)
    wb.prompt, wb.companion = wb.companion, wb.prompt
    wb.companion = None
    assert ran(wb)["companion"] is None


def test_another_model_is_laid_beside_by_name_and_its_run_is_run_a(smollm2: Any) -> None:
    wb = rs.workbench(smollm2)
    heard: list[tuple[str, Any]] = []
    wb.on_change(lambda name, value: heard.append((name, value)), "other")
    name = "smollm2-135m+repeated-name"
    assert wb.other is None
    wb.other = name
    assert wb.wait(120)
    assert wb.other == name
    run = wb.session.state.run(wb.session.state.a)
    assert run is not None
    want = rs.load(name).run(wb.prompt).logits[0, -1]
    torch.testing.assert_close(run.last, want, atol=2e-4, rtol=0)
    assert heard[0] == ("other", name)
    wb.other = None
    assert wb.wait(60)
    assert wb.session.snapshot()[1]["other"] is None
    with pytest.raises(BadArguments):
        wb.other = smollm2
