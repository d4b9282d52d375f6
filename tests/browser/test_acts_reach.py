"""What acting brings to the page is in reach: axe finds nothing, nothing is cut, in both themes."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.acting import MARY, open_map, pick
from browser.reaching import faults, violations
from browser.steps import settled

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_cut(bench: Page, workbench: Any, theme: str) -> None:
    session = workbench.session
    session.intent("set_companion", {"text": MARY})
    path = {"kind": "path", "sender": "mlp_out.0", "receiver": "k.23", "kv_head": 1, "source": {"kind": "companion"}}
    session.intent("set_edits", {"edits": [path, {"kind": "ablate", "site": "z.23", "head": 3}]})
    session.intent("save_stack", {"name": "two", "replace": True})
    bench.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    expect(bench.locator("[data-edit]")).to_have_count(2)
    settled(bench)
    expect(bench.locator(".stale")).to_have_count(0)
    bench.wait_for_timeout(400)  # what was stale is clear again by then
    wrong = {"strip": [*violations(bench), *faults(bench)]}
    bench.get_by_test_id("stacks").click()
    expect(bench.locator("[data-stack]")).to_have_count(1)
    wrong["stacks"] = [*violations(bench), *faults(bench)]
    bench.keyboard.press("Escape")
    open_map(bench)
    pick(bench, 0, None)
    bench.keyboard.press("m")
    pick(bench, 23, 3)
    wrong["path"] = [*violations(bench), *faults(bench)]
    bench.keyboard.press("Enter")
    expect(bench.get_by_test_id("path-choice")).to_be_visible()
    wrong["choice"] = [*violations(bench), *faults(bench)]
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("path-choice")).to_have_count(0)
    session.intent("delete_stack", {"name": "two"})
    session.intent("set_edits", {"edits": []})
    session.intent("set_companion", {"text": None})
    assert {name: found for name, found in wrong.items() if found} == {}
