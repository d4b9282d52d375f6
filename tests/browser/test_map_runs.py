"""The run switch is one for all that the map shows, and the map follows the history."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.acting import MARY, open_map, pick, stack_is
from browser.steps import IOI, LOAD_MS, metric, settled
from browser.test_exports import saved

pytestmark = pytest.mark.browser

ABLATE = {"kind": "ablate", "site": "mlp_out.3", "to": "zero"}


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m")


def test_a_pattern_is_shown_before_after_and_as_their_difference(bench: Page, workbench: Any, model: Any) -> None:
    workbench.session.intent("set_edits", {"edits": [ABLATE]})
    stack_is(bench, workbench.session, ABLATE)
    assert metric(bench, "delta") == pytest.approx(metric(bench, "b") - metric(bench, "a"), abs=1e-6)
    open_map(bench)
    pick(bench, 23, 3)
    patterns = [
        model.run(IOI, ["pattern.23"], edits=stack)["pattern.23"][0, 3]
        for stack in ([], [rs.edits.ablate("mlp_out.3")])
    ]
    for mode, said in (("base", "of baseline"), ("edit", "of edited")):
        bench.get_by_test_id(f"view-{mode}").click()
        bench.get_by_test_id("map-pattern").click()
        expect(bench.get_by_test_id("pattern-of")).to_have_text(said)
        bench.keyboard.press("Escape")
    bench.get_by_test_id("view-delta").click()
    expect(bench.get_by_test_id("map-shows")).to_contain_text("edited")
    bench.get_by_test_id("map-pattern").click()
    figure = bench.get_by_test_id("view-heat_map")
    expect(figure).to_contain_text("pattern.23 head 3, edited less baseline")
    figure.get_by_test_id("view-table").click()
    rows = figure.get_by_test_id("view-values").locator("tbody tr").all()
    shown = [text.replace("−", "-") for text in rows[-1].locator("td").all_inner_texts()]
    want = (patterns[1] - patterns[0])[-1]
    assert [float(text) for text in shown[1:]] == pytest.approx(want.tolist(), abs=1e-4)
    assert float(want.abs().max()) > 0.02
    bench.keyboard.press("Escape")


def test_the_map_follows_what_is_restored_and_compared(bench: Page, workbench: Any) -> None:
    session = workbench.session
    session.intent("set_edits", {"edits": [ABLATE]})
    stack_is(bench, session, ABLATE)
    edited = session.snapshot()[1]["current"]["b"]
    session.intent("set_edits", {"edits": []})
    stack_is(bench, session)
    open_map(bench)
    baseline = session.snapshot()[1]["current"]["a"]
    expect(bench.get_by_test_id("map")).to_have_attribute("data-run", baseline)
    session.intent("compare_run", {"run": edited})
    settled(bench)
    bench.get_by_test_id("view-base").click()
    expect(bench.get_by_test_id("map")).to_have_attribute("data-run", edited)
    session.intent("restore_run", {"run": edited})
    stack_is(bench, session, ABLATE)
    bench.get_by_test_id("view-edit").click()
    expect(bench.get_by_test_id("map")).to_have_attribute("data-run", edited)
    session.intent("compare_run", {"run": None})


def test_a_path_of_the_stack_is_in_the_map_s_file_too(bench: Page, workbench: Any, tmp_path: Path) -> None:
    path = {
        "kind": "path",
        "sender": "z.20",
        "sender_head": 4,
        "receiver": "q.23",
        "head": 3,
        "source": {"kind": "prompt", "text": MARY},
    }
    workbench.session.intent("set_edits", {"edits": [path]})
    stack_is(bench, workbench.session, {"kind": "path"})
    open_map(bench)
    bench.get_by_test_id("view-edit").click()
    on_screen = bench.locator("[data-arrow]").get_attribute("d")
    files = saved(bench, bench.get_by_test_id("export"), "export", tmp_path)
    found = re.findall(r'd="(M[^"]*Q[^"]*)"', files["svg"].decode())
    assert len(found) == 1, "its own layout, but one arrow, as on screen"
    assert on_screen is not None
    assert on_screen.count("L") == found[0].count("L")
