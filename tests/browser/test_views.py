"""The rest of the page on the real model: units, comparing, dragging, saving, sharing, folding; and a model of one's own."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.steps import IOI, LAST, LOAD_MS, ROWS, Traffic, cells, choose, opened, said, settled, type_prompt

pytestmark = pytest.mark.browser

PARIS = "The Eiffel Tower is located in the city of"
SCALE = {"id": "e1", "kind": "scale", "site": "mlp_out.4", "factor": 0.5}


def test_the_logit_difference_is_centred_on_the_data_set_mean(bench: Page) -> None:
    choose(bench, direction="logit", unit="logits-raw")
    raw = cells(bench, n_pos=LAST + 1)
    choose(bench, unit="logits-centred")
    centred = cells(bench, n_pos=LAST + 1)
    expect(bench.locator("caption")).to_contain_text("logits, centred")

    def bias(stream: list[list[float]]) -> float:
        middle = [value for row in stream[6:22] for value in row[1:]]
        return abs(sum(middle) / len(middle))

    assert bias(raw) > 4 * bias(centred), "the offset of the middle layers is what goes"
    assert centred[-1][LAST] > 0
    choose(bench, unit="logits-raw")
    assert cells(bench, n_pos=LAST + 1) == raw


def test_a_compared_run_shows_its_own_tokens(bench: Page, workbench: Any) -> None:
    type_prompt(bench, PARIS)
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    settled(bench)
    other = workbench.session.state.baseline
    workbench.session.intent("set_prompt", {"text": IOI})
    workbench.session.intent("compare_run", {"run": other})
    grid = bench.get_by_test_id("stream-grid")
    expect(grid).to_contain_text("Tower", timeout=20_000)
    expect(grid).to_have_attribute("data-cols", "10")
    bench.get_by_test_id("view-edit").click()
    expect(grid).to_contain_text("Mary")
    expect(grid).to_have_attribute("data-cols", str(LAST + 1))
    expect(bench.get_by_test_id("view-delta")).to_be_disabled()


def test_a_drag_of_a_strength_is_one_step(bench: Page, workbench: Any, traffic: Traffic) -> None:
    workbench.session.intent("set_edits", {"edits": [SCALE]})
    slider = bench.get_by_test_id("edit-strength")
    expect(slider).to_have_value("0.5")
    expect(bench.get_by_test_id("result-b")).to_be_visible(timeout=20_000)
    expect(bench.get_by_test_id("direction-card")).to_contain_text("common tokens", timeout=20_000)
    settled(bench)  # nothing above it moves from here on
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    before = len([frame for frame in traffic.sent if '"set_edits"' in str(frame)])
    bench.mouse.move(box["x"] + box["width"] * 0.375, y)
    bench.mouse.down()
    for step in range(1, 9):
        bench.mouse.move(box["x"] + box["width"] * (0.375 + 0.05 * step), y)
        bench.wait_for_timeout(15)
    bench.mouse.up()
    expect(slider).not_to_have_value("0.5")
    settled(bench)
    assert len([frame for frame in traffic.sent if '"set_edits"' in str(frame)]) == before + 1
    for _ in range(100):  # until it has arrived
        if workbench.session.state.edits[0].factor != 0.5:
            break
        bench.wait_for_timeout(50)
    assert workbench.session.state.edits[0].factor == float(slider.input_value())
    bench.get_by_test_id("undo").click()
    expect(slider).to_have_value("0.5")


def test_the_picture_is_saved_as_svg_png_and_csv(bench: Page, tmp_path: Path) -> None:
    choose(bench, direction="logit")
    saved = {}
    for kind in ("svg", "png", "csv"):
        bench.get_by_test_id("export").click()
        with bench.expect_download() as download:
            bench.get_by_test_id(f"export-{kind}").click()
        assert download.value.suggested_filename.endswith(f".{kind}")
        download.value.save_as(tmp_path / kind)
        saved[kind] = (tmp_path / kind).read_bytes()
    assert saved["svg"].count(b"resid_post.29 at") == LAST + 1
    assert saved["png"].startswith(b"\x89PNG")
    assert len(saved["png"]) > 20_000
    lines = saved["csv"].decode().splitlines()
    assert len(lines) == 1 + ROWS * (LAST + 1)
    shown = cells(bench, n_pos=LAST + 1)[-1][LAST]
    assert float(lines[-1].split(",")[3]) == pytest.approx(shown, abs=1e-6)


def open_link(browser: Browser, workbench: Any, link: str) -> Page:
    """A link in a browser that knows nothing but the token."""
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.goto(workbench.url)
    page.goto("about:blank")
    page.goto(link)
    return page


def test_a_shared_link_brings_everything_back(bench: Page, workbench: Any, browser: Browser) -> None:
    bench.context.grant_permissions(["clipboard-read", "clipboard-write"])
    type_prompt(bench, PARIS)
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    workbench.session.intent("set_edits", {"edits": [SCALE]})
    choose(bench, direction=3)
    settled(bench)
    for key in "jjh":
        bench.keyboard.press(key)
    expect(bench.get_by_test_id("readout")).to_contain_text("resid_post.21 at 8")
    bench.get_by_test_id("share").click()
    expect(bench.get_by_test_id("notice")).to_contain_text("Link copied")
    link = bench.evaluate("navigator.clipboard.readText()")
    assert workbench.token not in link

    workbench.session.intent("set_edits", {"edits": []})
    workbench.session.intent("set_prompt", {"text": IOI})
    settled(bench)
    page = open_link(browser, workbench, link)
    expect(page.get_by_test_id("readout")).to_contain_text("resid_post.21 at 8", timeout=20_000)
    expect(page.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    expect(page.get_by_test_id("edits-list")).to_contain_text("mlp_out.4")
    said(page, "direction", "3")
    expect(page.get_by_test_id("notice")).to_have_count(0)
    assert workbench.session.state.prompt.text == PARIS
    page.context.close()

    parts = urlsplit(link)
    held = {key: values[0] for key, values in parse_qs(parts.fragment).items()}
    held["share"] = json.dumps(json.loads(held["share"]) | {"hash": "0badc0de0badc0de"})
    other = parts._replace(fragment="&".join(f"{key}={quote(value)}" for key, value in held.items())).geturl()
    page = open_link(browser, workbench, other)
    expect(page.get_by_test_id("notice")).to_contain_text("another model", timeout=20_000)
    expect(page.get_by_test_id("notice")).to_contain_text("0badc0de")
    expect(page.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    page.context.close()


def test_nothing_is_asked_before_the_picture_is_painted(bench: Page, traffic: Traffic) -> None:
    expect(bench.get_by_test_id("direction-card")).to_contain_text("cos to", timeout=20_000)
    bench.wait_for_timeout(500)
    asked = len(traffic.urls)
    text = "A prompt that nobody has typed before, with a question at the end"
    type_prompt(bench, text)
    bench.wait_for_timeout(300)
    expect(bench.get_by_test_id("stream-grid")).to_contain_text("nobody", timeout=20_000)
    expect(bench.get_by_test_id("readout")).not_to_contain_text("…", timeout=20_000)
    paths = [urlsplit(url).path for url in traffic.urls[asked:]]
    asked_for = [path.rsplit("/", 1)[1] for path in paths]
    assert not {"stream", "logits"} & {*asked_for}, "they came with the news of the run"
    marks = bench.evaluate(
        """() => {
          const painted = performance.getEntriesByName("residscope:stream-painted").at(-1);
          const asked = performance.getEntriesByType("resource").filter((e) => e.startTime > painted.startTime - 4000);
          return { sent: performance.getEntriesByName("residscope:prompt-sent").at(-1).startTime,
                   painted: performance.getEntriesByName("residscope:stream-painted")
                     .find((e) => e.detail.prompt.startsWith("A prompt that nobody")).startTime,
                   later: asked.filter((e) => /lens|directions|coef/.test(e.name)).map((e) => e.startTime) };
        }"""
    )
    assert marks["sent"] < marks["painted"]
    assert marks["later"], "the lens and the directions are asked for in the end"
    assert not [start for start in marks["later"] if marks["sent"] < start < marks["painted"]]


def test_on_a_tablet_the_side_columns_fold(bench: Page) -> None:
    bench.set_viewport_size({"width": 1024, "height": 768})
    rail, inspector = bench.locator("#rail"), bench.locator("#inspector")
    expect(rail).to_be_hidden()
    expect(inspector).to_be_hidden()
    bench.get_by_test_id("fold-inspector").click()
    expect(inspector).to_be_visible()
    bench.get_by_test_id("fold-rail").click()
    expect(rail).to_be_visible()
    expect(inspector).to_be_hidden()
    bench.get_by_test_id("fold-rail").click()
    expect(rail).to_be_hidden()
    bench.keyboard.press("e")
    expect(bench.get_by_test_id("prompt-input")).to_be_visible()
    for width, height in ((1280, 720), (1024, 768)):
        bench.set_viewport_size({"width": width, "height": height})
        assert bench.evaluate("document.documentElement.scrollWidth") == width


def test_a_model_of_one_s_own_gets_components(page: Page, folder: Path, tmp_path: Path) -> None:
    from residscope.engine.loading import load
    from residscope.server import Server
    from residscope.session import Session

    session = Session(load=load, folder=tmp_path)
    with Server(session, port=0) as server:
        page.goto(server.url)
        page.get_by_test_id("model-picker").click()
        page.get_by_label("Hub id or folder").fill(str(folder))
        page.get_by_role("button", name="Load", exact=True).click()
        expect(page.get_by_test_id("model-picker")).to_contain_text("6 layers", timeout=LOAD_MS)
        page.get_by_role("tab", name="Probe").click()
        expect(page.get_by_test_id("probe-none")).to_be_visible()
        page.get_by_role("tab", name="Stream").click()
        type_prompt(page, "a small prompt")
        expect(page.get_by_test_id("stream-grid")).to_have_attribute("data-rows", "7", timeout=20_000)
        with opened(page, "unit"):
            expect(page.get_by_test_id("logits-centred")).to_be_disabled()
        docs = {"kind": "builtin", "name": "python-docs"}
        session.intent("start", {"method": "pca-stream", "args": {"corpus": docs, "tokens": 1_000_000}})
        expect(page.get_by_test_id("fit-progress")).to_be_visible()
        page.get_by_test_id("fit-cancel").click()
        page.get_by_test_id("fit-open").click()
        page.get_by_test_id("fit-start").click()
        expect(page.get_by_test_id("fit-jobs")).to_have_count(0, timeout=60_000)
        choose(page, direction=0)
        expect(page.get_by_test_id("direction-card")).to_contain_text("fitted on Python docs", timeout=20_000)
        choose(page, direction="logit")
        choose(page, unit="logits-centred")
        expect(page.get_by_test_id("readout")).to_have_attribute("data-value", re.compile(r"^-?\d"))
        expect(page.get_by_test_id("readout")).to_contain_text("centred")
    expect(page.get_by_test_id("disconnected")).to_contain_text("Trying again", timeout=20_000)
    session.close()
