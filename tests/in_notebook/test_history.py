"""`wb.history()`: every gesture as Python, which run as pasted gives the logits that the page showed."""

from typing import Any

import pytest
import torch

import residscope as rs
from in_notebook.test_workbench import EDITS, every_edit, plain, shown
from residscope import edits


def ran(wb: rs.Workbench) -> dict[str, Any]:
    """What stands there after the lines were run."""
    names: dict[str, Any] = {"wb": wb}
    exec("\n".join(wb.history()), names)
    return names


def last(names: dict[str, Any]) -> torch.Tensor:
    return names["run"].logits_at(-1)[0].float()


def test_gestures_of_page_and_code_in_their_order(wb: rs.Workbench) -> None:
    wb.edits = (edits.ablate("z.1", head=2),)
    wb.session.intent("add_edit", {"edit": {"kind": "scale", "site": "mlp_out.2", "factor": 0.5}})
    wb.session.intent("undo", {})
    wb.session.intent("redo", {})
    wb.prompt = "another"
    wb.selection = (1, 3)
    wb.metric = ("x", "y")
    wb.session.intent("save_prompt", {"text": "kept"})
    lines = wb.history()
    stacks = [line for line in lines if line.startswith("stack")]
    one, two = (
        "stack = [edits.ablate('z.1', head=2)]",
        "stack = [edits.ablate('z.1', head=2), edits.scale('mlp_out.2', 0.5)]",
    )
    assert stacks == ["stack = []", one, two, one, two]
    assert lines[-4:] == [
        "selection = (3, 6)  # layer, position",
        "selection = (1, 3)  # layer, position",
        "metric = metrics.logit_diff('x', 'y')",
        "# save_prompt Text(text='kept')",
    ]
    names = ran(wb)
    assert torch.equal(last(names), shown(wb))
    assert names["selection"] == wb.selection
    assert float(names["metric"](names["run"])) == pytest.approx(
        float(wb.metric(wb.model.run(wb.prompt, edits=list(wb.edits))))
    )


def test_a_model_that_came_as_an_object_is_the_workbench_s(wb: rs.Workbench) -> None:
    assert [line for line in wb.history() if line.startswith("model = ")] == [
        "model = wb.model  # it came as an object, which no name gives"
    ]


@pytest.mark.parametrize("place", range(EDITS))
def test_every_edit_s_line_gives_the_page_s_logits(wb: rs.Workbench, place: int) -> None:
    wb.edits = (every_edit(wb)[place],)
    logits = shown(wb)
    names = ran(wb)
    assert torch.equal(last(names), logits)
    assert torch.equal(plain(wb, names["stack"]), logits)


def test_methods_and_refresh_are_told(wb: rs.Workbench) -> None:
    wb.metric = ("x", "y")
    found = wb.run("ablation-sweep", site="z")
    with torch.no_grad():
        wb.model.hf.model.layers[2].mlp.down_proj.weight.mul_(0.5)
    wb.refresh()
    logits = shown(wb)
    lines = wb.history()
    assert "result = rs.ablation_sweep(model, prompt, metrics.logit_diff('x', 'y'))" in lines
    assert lines[-2:] == [
        "# here the model was changed, and wb.refresh() took it as it was then",
        "run = model.run(prompt, edits=stack)",
    ]
    names = ran(wb)
    assert torch.equal(last(names), logits)
    assert names["result"].dims == found.dims


def test_a_prompt_set_by_ids_and_what_is_generated_from_it_are_told(wb: rs.Workbench) -> None:
    ids = [5, 6, 7, 1]  # the last one is special
    wb.session.intent("set_tokens", {"ids": ids})
    assert wb.model.tokens(wb.prompt)[0].tolist() == ids
    wb.edits = (edits.scale("z.1", -3.0),)
    found = wb.run("continuations", max_new_tokens=3, edits="live", stop="zzz")
    assert found.draws[0].edited is not None
    assert f"prompt = {wb.prompt!r}" in wb.history()
    names = ran(wb)
    assert names["result"] == found
    assert torch.equal(last(names), shown(wb))


@pytest.mark.parametrize("bos", [True, False])
def test_a_prompt_s_bos_is_said(wb: rs.Workbench, bos: bool) -> None:
    wb.session.intent("set_prompt", {"text": "bos or not", "bos": bos})
    assert torch.equal(last(ran(wb)), shown(wb))


def test_the_default_model_by_its_name(smollm2: Any) -> None:
    """In a fresh Python, the lines alone."""
    import subprocess
    import sys

    wb = rs.workbench(smollm2)
    wb.edits = (
        edits.ablate("z.23", head=3),
        edits.steer("resid_post.9", rs.directions.shipped(smollm2)["resid_post.9"][3], 4.0),
    )
    expected = shown(wb).topk(3)
    lines = [
        *wb.history(),
        "found = run.logits_at(-1)[0].topk(3)",
        "print(found.indices.tolist(), found.values.tolist())",
    ]
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    ids, values = (eval(part) for part in said.strip().replace("] [", "]|[").split("|"))
    assert ids == expected.indices.tolist()
    assert values == pytest.approx(expected.values.tolist(), abs=1e-4)
