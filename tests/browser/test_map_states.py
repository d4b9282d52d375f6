"""The map while it is read, when that is called off, and where answers are guessed."""

import threading
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import Traffic, settled
from browser.test_map import open_map
from residscope.session.maps import reading

pytestmark = pytest.mark.browser


def test_waiting_says_how_long_and_can_be_called_off_and_begun_again(
    bench: Page, workbench: Any, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_map(bench)
    leave, small = threading.Event(), reading.small
    read: list[int] = []

    def waits(pattern: Any) -> Any:
        read.append(1)
        assert leave.wait(60)
        return small(pattern)

    monkeypatch.setattr(reading, "small", waits)
    monkeypatch.setattr(reading, "GROUP_BYTES", 1)
    workbench.session.intent("set_prompt", {"text": "The war lasted from the year 1732 to the year 17"})
    waiting = bench.get_by_test_id("map-waiting")
    expect(waiting).to_contain_text("Reading what every head and MLP adds: 1 s, of about", timeout=20_000)
    bench.get_by_test_id("map-stop").click()
    expect(bench.get_by_test_id("map-stopped")).to_contain_text("Called off")
    leave.set()
    bench.wait_for_timeout(500)
    assert len(read) <= 2, "of thirty layers no more than the one under way is read"
    monkeypatch.setattr(reading, "small", small)
    bench.get_by_role("button", name="Read it").click()
    expect(bench.get_by_test_id("map-stopped")).to_have_count(0)
    run = workbench.session.snapshot()[1]["current"]["a"]
    expect(bench.get_by_test_id("map")).to_have_attribute("data-run", run, timeout=30_000)
    traffic.complaints = [said for said in traffic.complaints if not said.endswith("/queries/map")]


def test_guessed_answers_are_said_to_be(bench: Page, workbench: Any) -> None:
    open_map(bench)
    expect(bench.get_by_test_id("map-guessed")).to_have_text("(guessed)")
    workbench.session.intent("set_metric", {"positive": " Mary", "negative": " John"})
    settled(bench)
    expect(bench.get_by_test_id("map-guessed")).to_have_count(0)


def test_what_failed_is_said_with_a_way_out(
    bench: Page, workbench: Any, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pattern: Any) -> Any:
        raise RuntimeError("no room for this")

    monkeypatch.setattr(reading, "small", broken)
    workbench.session.intent("set_prompt", {"text": "Paris is the capital of"})
    bench.locator("#tab-map").click()
    expect(bench.get_by_test_id("map-failed")).to_contain_text("no room for this", timeout=20_000)
    monkeypatch.undo()
    bench.get_by_role("button", name="Try again").click()
    expect(bench.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=30_000)
    traffic.complaints = [said for said in traffic.complaints if not said.endswith("/queries/map")]
