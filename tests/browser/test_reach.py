"""Everything can be got at: at any width, by touch, by keys, by a screen reader, over a slow line."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browser.reaching import TABS, faults, violations
from browser.steps import IOI, LOAD_MS, settled

pytestmark = pytest.mark.browser

SIZES = {"phone": (390, 844), "tablet": (820, 1180), "laptop": (1280, 720), "zoomed twice": (640, 360)}
DIALOGS = {"help-open": "help", "library-toggle": "library", "copy-python": "code"}


def put_edits(bench: Page, workbench: Any) -> None:
    session = workbench.session
    session.intent("add_edit", {"edit": {"kind": "ablate", "site": "resid_post.5", "pos": [3], "to": "zero"}})
    session.intent("add_edit", {"edit": {"kind": "freeze", "site": "pattern.9"}})
    session.intent("set_companion", {"text": IOI.replace("the store, John", "the big store, Mary")})
    expect(bench.locator("[data-edit]")).to_have_count(2)
    settled(bench)


def visible_triggers(page: Page) -> list[Locator]:
    found = page.locator(".page [aria-haspopup=dialog]:not(:disabled)")
    return [one for one in (found.nth(i) for i in range(found.count())) if one.is_visible()]


def walk(page: Page, *, popovers: bool) -> Iterator[str]:
    """Every tab, folded column, popover and dialog in turn, each in sight while its name is out."""
    seen: set[str | None] = set()
    for tab in TABS:
        page.locator(f"#tab-{tab}").click()
        expect(page.get_by_role("tabpanel").get_by_text("Fetching")).to_have_count(0)
        page.wait_for_timeout(300)
        yield tab
        if popovers:
            for trigger in visible_triggers(page):
                name = trigger.get_attribute("data-testid")
                if name in seen:
                    continue
                seen.add(name)
                trigger.click()
                yield f"{tab}: {name}"
                page.keyboard.press("Escape")
                expect(trigger).to_have_attribute("aria-expanded", "false")
    page.locator("#tab-stream").click()
    for side in ("rail", "inspector"):
        fold = page.get_by_test_id(f"fold-{side}")
        if fold.is_visible():
            fold.click()
            yield side
            fold.click()
    page.locator("#tab-stream").focus()
    page.keyboard.press("/")
    expect(page.get_by_label("Command", exact=True)).to_be_focused()
    yield "palette"
    page.keyboard.press("Escape")
    for testid, name in DIALOGS.items():
        page.get_by_test_id(testid).click()
        page.wait_for_timeout(300)
        yield name
        if name == "library":
            page.get_by_test_id(testid).click()
        else:
            page.keyboard.press("Escape")


def found(page: Page, look: Callable[[Page], list[str]], *, popovers: bool = True) -> dict[str, list[str]]:
    def lasting() -> list[str]:
        """What is there at once, and half a second later too: a column that has just opened is measured a frame after."""
        if not look(page):
            return []
        page.wait_for_timeout(500)
        return look(page)

    return {where: wrong for where in walk(page, popovers=popovers) if (wrong := lasting())}


@pytest.mark.parametrize("size", SIZES)
def test_every_control_is_in_reach_and_large_enough(bench: Page, workbench: Any, size: str) -> None:
    width, height = SIZES[size]
    put_edits(bench, workbench)
    bench.set_viewport_size({"width": width, "height": height})
    assert found(bench, faults, popovers=size != "tablet") == {}


def test_the_measure_sees_what_is_cut_and_what_is_small(bench: Page) -> None:
    assert faults(bench) == []
    bench.evaluate(
        "() => { const bar = document.querySelector('header.top');"
        " bar.style.width = '500px'; bar.style.overflow = 'hidden';"
        " document.querySelector('[data-testid=prompt-edit]').style.cssText = 'min-height: 0; height: 18px'; }"
    )
    wrong = faults(bench)
    assert any("cut: button[theme-toggle]" in one for one in wrong)
    assert any("small: button[prompt-edit]" in one for one in wrong)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(bench: Page, workbench: Any, theme: str) -> None:
    put_edits(bench, workbench)
    if theme == "dark":
        bench.get_by_test_id("theme-toggle").click()
    expect(bench.locator(".residscope")).to_have_attribute("data-theme", theme)
    assert found(bench, violations) == {}


def test_a_direction_with_words_is_in_reach_too(bench: Page, workbench: Any) -> None:
    """What only people fill: the library's list and one of its directions, with a description to vote on and a saved prompt."""
    workbench.session.intent("save_prompt", {"text": "of names"})
    bench.get_by_test_id("library-toggle").click()
    bench.get_by_test_id("library-sign-in").click()
    bench.get_by_test_id("library-name").fill("reach")
    bench.get_by_test_id("library-name-set").click()
    bench.get_by_test_id("direction-save").click()
    bench.get_by_test_id("save-name").fill("in reach")
    bench.get_by_test_id("save-description").fill("the names of people")
    bench.get_by_test_id("save-submit").click()
    expect(bench.get_by_test_id("one-name")).to_have_text("in reach")
    wrong: dict[str, list[str]] = {}
    for page in ("one", "list"):
        for width, height in SIZES.values():
            bench.set_viewport_size({"width": width, "height": height})
            bench.wait_for_timeout(200)
            wrong[f"{page} at {width}"] = faults(bench) + (violations(bench) if width in (390, 1280) else [])
        bench.set_viewport_size({"width": 1280, "height": 720})
        if page == "one":
            bench.get_by_test_id("library-back").click()
            expect(bench.get_by_test_id("library-entry").first).to_be_visible()
    bench.get_by_test_id("library-toggle").click()
    assert {where: one for where, one in wrong.items() if one} == {}


def test_tabs_take_arrows_and_digits_whatever_has_the_focus(bench: Page) -> None:
    stream, second, methods = (bench.locator(f"#tab-{name}") for name in ("stream", "map", "methods"))
    assert bench.locator("[role=tab][tabindex='0']").count() == 1
    stream.focus()
    bench.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-selected", "true")
    bench.keyboard.press("End")
    expect(methods).to_have_attribute("aria-selected", "true")
    bench.keyboard.press("ArrowRight")  # round to the first
    expect(stream).to_be_focused()
    for held in (bench.get_by_test_id("theme-toggle"), bench.get_by_test_id("say-row"), bench.locator(".chip.on")):
        held.focus()
        bench.keyboard.press("2")
        expect(second).to_have_attribute("aria-selected", "true")
        bench.keyboard.press("1")
        expect(stream).to_have_attribute("aria-selected", "true")
    bench.get_by_test_id("prompt-edit").click()
    bench.get_by_test_id("prompt-input").press("2")
    expect(stream).to_have_attribute("aria-selected", "true")


def test_lists_are_one_stop_and_a_link_skips_to_the_picture(bench: Page) -> None:
    bench.evaluate("document.activeElement.blur()")
    bench.keyboard.press("Tab")
    expect(bench.get_by_role("link", name="Skip to the picture")).to_be_focused()
    bench.keyboard.press("Enter")
    expect(bench.locator("#view")).to_be_focused()
    assert bench.locator(".chip[tabindex='0']").count() == 1
    bench.locator(".chip").nth(4).click()
    bench.keyboard.press("ArrowRight")  # the selection and the focus move together
    expect(bench.locator(".chip").nth(5)).to_be_focused()
    expect(bench.locator(".chip").nth(5)).to_have_attribute("aria-pressed", "true")
    bench.locator("#tab-methods").click()
    listed = bench.locator("li button[data-testid^=method-]")
    expect(listed.first).to_be_visible()
    assert bench.locator("li button[data-testid^=method-][tabindex='0']").count() == 1
    listed.first.focus()
    bench.keyboard.press("ArrowDown")
    expect(listed.nth(1)).to_be_focused()
    assert bench.locator("li button[data-testid^=method-][tabindex='0']").count() == 1


def test_runs_saved_prompts_and_the_palette_are_one_stop_each(bench: Page, workbench: Any) -> None:
    session = workbench.session
    for text in ("one to keep", "another to keep"):
        session.intent("save_prompt", {"text": text})
        session.intent("set_prompt", {"text": text})
        settled(bench)
    runs, saved = (
        bench.get_by_test_id("runs"),
        bench.get_by_role("listitem").filter(has_text="to keep").locator(".item"),
    )
    expect(saved).to_have_count(2)
    for stops in (runs.locator("button[tabindex='0']"), saved.and_(bench.locator("[tabindex='0']"))):
        expect(stops).to_have_count(1)
    saved.first.focus()
    bench.keyboard.press("End")
    assert bench.evaluate("document.activeElement.closest('li')?.textContent.includes('keep')")
    bench.keyboard.press("/")
    field = bench.get_by_label("Command", exact=True)
    expect(field).to_be_focused()
    field.fill("layer")
    options = bench.get_by_role("listbox", name="Commands").get_by_role("option")
    expect(options.first).to_have_attribute("aria-selected", "true")
    bench.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    assert field.get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    assert options.and_(bench.locator(":not([tabindex='-1'])")).count() == 0
    bench.keyboard.press("Escape")
    for text in ("one to keep", "another to keep"):
        session.intent("forget_prompt", {"text": text})


def test_a_finger_does_what_a_mouse_does(workbench: Any, browser: Browser) -> None:
    workbench.session.intent("set_prompt", {"text": IOI})
    workbench.session.intent("save_prompt", {"text": "what a finger may forget"})
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(workbench.url)
    settled(page)
    page.get_by_test_id("fold-rail").tap()
    page.locator(".chip").nth(3).tap()
    expect(page.locator(".chip").nth(3)).to_have_attribute("aria-pressed", "true")
    for only_under_a_mouse in (".forget", ".acts"):
        for one in page.locator(only_under_a_mouse).all():
            expect(one).to_have_css("opacity", "1")
    page.get_by_test_id("fold-rail").tap()
    page.get_by_test_id("say-row").tap()
    expect(page.get_by_test_id("pick-row")).to_be_in_viewport()
    page.keyboard.press("Escape")
    for tab in TABS:
        page.locator(f"#tab-{tab}").tap()
        expect(page.locator(f"#tab-{tab}")).to_have_attribute("aria-selected", "true")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_a_slow_line_brings_a_frame_and_then_the_grid(workbench: Any, browser: Browser) -> None:
    """50 kB/s both ways, 50 ms: the page's outline within 2 s, its first grid within 6 s; at the best of three visits, since
    another test may have the processor meanwhile."""
    assert workbench.session.wait(LOAD_MS / 1000)
    workbench.session.intent("set_edits", {"edits": []})
    assert workbench.session.wait(60)
    visits: list[tuple[float, float, int]] = []
    while len(visits) < 3 and not any(frame < 2 and grid < 6 for frame, grid, _ in visits):
        visits.append(slow_visit(workbench.url, browser))
    assert any(frame < 2 and grid < 6 for frame, grid, _ in visits), f"frame and grid, seconds, and bytes: {visits}"
    assert max(sent for *_, sent in visits) < 3.2 * 50 * 1024, "the line alone takes little more than half of the 6 s"


PAINTED = """() => performance.timeOrigin + performance.getEntriesByName("residscope:stream-painted")[0].startTime"""


def slow_visit(url: str, browser: Browser) -> tuple[float, float, int]:
    """Seconds to the first paint and to the grid, and the bytes that came until the grid was painted, by the browser's clock."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    line = context.new_cdp_session(page)
    came: list[tuple[float, int]] = []
    begins: list[float] = []  # what the network's clock is behind the wall's
    line.on("Network.dataReceived", lambda told: came.append((told["timestamp"], told["encodedDataLength"])))
    line.on("Network.requestWillBeSent", lambda told: begins.append(told["wallTime"] - told["timestamp"]))
    line.send("Network.enable")
    speed = {"downloadThroughput": 50 * 1024, "uploadThroughput": 50 * 1024}
    line.send("Network.emulateNetworkConditions", {"offline": False, "latency": 50, **speed})
    begun = time.monotonic()
    page.goto(url, wait_until="commit")
    page.locator("[data-testid=stream-grid] canvas").first.wait_for(timeout=LOAD_MS)
    grid = time.monotonic() - begun
    painted = page.evaluate(PAINTED) / 1000
    sent = sum(size for at, size in came if at + begins[0] <= painted)
    frame = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    context.close()
    print(f"frame {frame:.2f} s, grid {grid:.2f} s, {sent} bytes")
    return frame, grid, sent
