"""Tokens of every writing, and Python copied of what is on screen: in the page of the real model, against the engine."""

import os
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LAST, cells, choose, grid, metric, settled, show_table, type_prompt
from residscope import directions

pytestmark = pytest.mark.browser
HARD = "I 👩‍👩 مرحبا بك שלום a\u0301 x\u202ey\u200bz\u00a0<|im_end|>\r\n\tend"
REORDERING = {"Cc", "Cf", "Zl", "Zp"}


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at."""
    if folder := os.environ.get("SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_prompt_of_every_writing_stands_in_the_order_of_its_tokens(bench: Page, workbench: Any) -> None:
    type_prompt(bench, HARD)
    settled(bench)
    model = workbench.session.model
    ids = [token.id for token in workbench.session.state.prompt.tokens]
    strip = bench.locator("[role=listbox] [data-token]")
    expect(strip).to_have_count(len(ids), timeout=20_000)
    told = strip.evaluate_all(
        "all => all.map(e => ({ token: +e.dataset.token, kind: e.dataset.kind, title: e.title, text: e.textContent,"
        " x: e.getBoundingClientRect().left, y: e.getBoundingClientRect().top }))"
    )
    for before, after in pairwise(told):
        if abs(before["y"] - after["y"]) < 4:
            assert before["x"] < after["x"], "from left to right, whatever their writing"
    for text in (one["text"] for one in told):
        assert not [c for c in text if unicodedata.category(c) in REORDERING]
        assert text
    kinds = dict(zip(model.token_texts(ids), [one["kind"] for one in told], strict=True))
    assert kinds["<|im_end|>"] == "special"
    assert kinds["<0x91>"] == "bytes"
    assert kinds["I"] == "text"
    assert next(one for one in told if one["kind"] == "special")["title"] == "Special token <|im_end|>"
    at = model.token_texts(ids).index("<0x91>")
    assert told[at]["title"] == "bytes 91, of 👩 (U+1F469)"
    heads = bench.locator("[data-testid=stream-grid] .head").evaluate_all(
        "all => all.map(e => [e.querySelector('.n').textContent, e.getBoundingClientRect().left])"
    )
    assert len(heads) > 5
    assert all(int(n) + 1 == int(m) and x < y for (n, x), (m, y) in pairwise(heads))
    shot(bench, "writings")
    bench.get_by_test_id("theme-toggle").click()
    shot(bench, "writings-dark")
    bench.get_by_test_id("theme-toggle").click()
    show_table(bench)
    choose(bench, direction="logit", unit="logits-raw")
    found = np.array(cells(bench, n_pos=len(ids)))
    pair = workbench.session.state.metric
    direction = directions.logit_diff(model, pair.positive.id, pair.negative.id)
    run = model.run(ids)
    wanted = [
        direction.project(run["resid_post.29"][0], model=model),
        direction.project(run["resid_pre.0"][0], model=model),
    ]
    assert np.abs(found[-1] - wanted[0].numpy()).max() < 1e-3
    assert np.abs(found[0] - wanted[1].numpy()).max() < 1e-3


def test_answers_of_any_token_are_shown_typed_back_and_read(bench: Page, workbench: Any) -> None:
    session = workbench.session

    def ids() -> tuple[int, int]:
        now = session.state.metric
        return now.positive.id, now.negative.id

    model = session.model
    for positive, negative in (("\t", "\r\n"), ("·", " ·"), (" <0xF0><0x9F>", "<0xE2><0x80>"), ("<|im_end|>", "ا")):
        session.intent("set_metric", {"positive": positive, "negative": negative})
        settled(bench)
        wanted = ids()
        assert model.token_texts(wanted) == [positive, negative]
        bench.get_by_test_id("answers").click()
        bench.get_by_test_id("answer-set").click()
        expect(bench.get_by_test_id("answers")).to_be_visible()
        assert ids() == wanted, "opened and set again it is the same"
        choose(bench, direction="logit")
        card = bench.get_by_test_id("direction-card")
        expect(card).to_contain_text(re.compile(r"\+1\.00\s*cos to"), timeout=20_000)
        logits = model.run(IOI).logits_at(-1)[0]
        assert metric(bench, "a") == pytest.approx(float(logits[wanted[0]] - logits[wanted[1]]), abs=2e-3)
    shot(bench, "answers")


def test_an_answer_of_several_tokens_offers_them(bench: Page, workbench: Any) -> None:
    bench.get_by_test_id("answers").click()
    bench.get_by_test_id("answer-positive").fill("كيف")
    bench.get_by_test_id("answer-negative").fill("⟨xD8⟩")
    bench.get_by_test_id("answer-set").click()
    offered = bench.get_by_test_id("answer-pieces-positive").get_by_role("button")
    model = workbench.session.model
    expect(offered).to_have_count(len(model.encode("كيف", bos=False)))
    shot(bench, "answer-pieces")
    bench.get_by_role("button", name=re.compile("The positive answer: “ي”")).click()
    bench.get_by_test_id("answer-set").click()
    expect(bench.get_by_test_id("answers")).to_be_visible()
    now = workbench.session.state.metric
    assert (now.positive.text, now.negative.text) == ("ي", "<0xD8>")


def copied(page: Page, workbench: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the copied lines leave as `cells`, run where nothing has a name."""
    page.get_by_test_id("copy-python").click()
    expect(page.get_by_test_id("python-code")).to_contain_text(re.compile(r"print\(\*?cells"), timeout=20_000)
    code = page.get_by_test_id("python-code").inner_text()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("python-code")).to_have_count(0)
    with monkeypatch.context() as patch:
        patch.setattr(rs, "load", lambda name, **options: workbench.session.model)
        namespace: dict[str, Any] = {}
        exec(compile(code, "<pasted>", "exec"), namespace)
    cells = namespace["cells"]
    return np.concatenate(cells) if isinstance(cells, list) else np.asarray(cells.double())


def test_the_python_that_is_copied_gives_the_cells_on_screen(bench: Page, workbench: Any, monkeypatch: Any) -> None:
    workbench.session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.23", "head": 3}]})
    settled(bench)
    expect(bench.get_by_test_id("result-b")).to_be_visible(timeout=20_000)
    show_table(bench)
    seen = []

    def same() -> None:
        expect(bench.get_by_test_id("stream-grid").locator("td")).to_have_count(31 * (LAST + 1), timeout=20_000)
        shown = np.array(grid(bench, rows=31, n_pos=LAST + 1))
        found = copied(bench, workbench, monkeypatch)
        assert np.abs(found - shown).max() <= 2e-4 * np.abs(shown).max()
        seen.append(shown)

    for key in ("", "x", "d"):  # baseline, edited, difference
        if key:
            bench.get_by_test_id("stream-grid").locator("td button").first.focus()
            bench.keyboard.press(key)
        choose(bench, direction="logit")
        same()
        choose(bench, place="pca@resid_post.23", direction=1)
        for unit in ("centred", "raw", "cos"):
            choose(bench, unit=f"unit-{unit}")
            same()
        choose(bench, unit="unit-centred")
    assert len(seen) == 12
    assert all(not np.allclose(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_python_of_a_page_of_prompts_gives_its_colours_numbers(
    bench: Page, workbench: Any, monkeypatch: Any
) -> None:
    choose(bench, place="pca@resid_post.23", direction=7)
    bench.get_by_role("tab", name="Prompts").click()
    expect(bench.locator('[data-testid^="prompt-"][data-own="false"]').first).to_be_visible(timeout=120_000)
    expect(bench.get_by_test_id("prompts-new")).to_be_visible(timeout=120_000)
    for row in (24, 0):
        choose(bench, row=row)
        if bench.get_by_test_id("prompts-table-toggle").get_attribute("aria-pressed") != "true":
            bench.get_by_test_id("prompts-table-toggle").click()
        told = bench.get_by_test_id("prompts-table").locator("td[data-token]")
        expect(told.first).to_be_visible()
        bench.wait_for_load_state("networkidle")
        bench.wait_for_timeout(500)
        values = told.evaluate_all("all => all.map(td => [+td.dataset.token, +td.dataset.value])")
        found = copied(bench, workbench, monkeypatch)
        assert len(found) >= 16 + 20 * 40
        scale = np.abs(found).max()
        assert all(abs(found[int(at)] - value) <= 2e-4 * scale for at, value in values)
        assert len(values) > 50


def test_a_form_takes_tokens_as_they_are_shown(bench: Page, workbench: Any) -> None:
    """A space, a tab, bytes and the comma, which parts them."""
    bench.get_by_role("tab", name="Methods").click()
    bench.get_by_test_id("method-unembedding-rows").click()
    bench.get_by_test_id("field-tokens").fill("·Mary,⇥,⟨xE280⟩,⟨2c⟩")
    bench.get_by_test_id("method-run").click()
    expect(bench.get_by_test_id("item")).to_have_attribute("data-name", re.compile("."), timeout=60_000)  # kept
    made = next(d for d in workbench.session.state.model.fitted.values() if d.name == "unembedding")
    assert made.names == (" Mary", "\t", "<0xE2><0x80>", ",")
    workbench.session.intent("delete_item", {"name": bench.get_by_test_id("item").get_attribute("data-name")})
