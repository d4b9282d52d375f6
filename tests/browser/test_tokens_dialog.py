"""The Tokens dialog: every cell is the tokenizer's, and another model's reading is aligned by character."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, Traffic, settled

pytestmark = pytest.mark.browser


def cells(page: Page) -> list[list[str]]:
    rows = page.get_by_test_id("tokens-table").locator("tbody tr")
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows.all()]


def saved(page: Page) -> list[list[str]]:
    with page.expect_download() as got:
        page.get_by_test_id("tokens-csv").click()
    return [*csv.reader(io.StringIO(Path(got.value.path()).read_text(encoding="utf-8")))]


def test_the_table_is_the_tokenizers(bench: Page, workbench: Any) -> None:
    text = "Mary met 👩 John,<|im_end|>1"
    workbench.session.intent("set_prompt", {"text": text})
    settled(bench)
    bench.get_by_test_id("prompt-tokens").click()
    expect(bench.get_by_test_id("tokens-table")).to_be_visible()
    tokenizer = workbench.session.model.tokenizer
    ids = tokenizer(text)["input_ids"]
    found = cells(bench)
    assert [int(row[1]) for row in found] == ids
    spelled = b"".join(bytes.fromhex(row[3]) for row in found)
    assert spelled == text.replace("<|im_end|>", "").encode()
    assert [row[4] for row in found].count("special") == 1
    for piece in found[0][7].split(", "):
        form, n = piece.replace("·", " ").rsplit(" ", 1)
        assert len(tokenizer(form)["input_ids"]) == int(n)
    assert [row[1] for row in saved(bench)[1:]] == [str(id) for id in ids]
    assert violations(bench) == []
    assert faults(bench) == []
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("tokens-dialog")).to_have_count(0)


def test_another_model_reads_the_same_text(bench: Page, workbench: Any, folder: Path) -> None:
    bench.get_by_test_id("prompt-tokens").click()
    bench.get_by_test_id("tokens-other").select_option("a folder …")
    bench.get_by_test_id("tokens-folder").fill(str(folder))
    bench.get_by_test_id("tokens-folder").press("Enter")
    expect(bench.get_by_test_id("tokens-table")).to_contain_text(str(folder))
    made = rs.token_table(workbench.session.model, IOI, others=[str(folder)])
    assert [[int(row[0]), int(row[2])] for row in cells(bench)] == [[a, c] for a, _, c, _ in made.groups[0]]
    bench.keyboard.press("Escape")


def test_a_model_that_is_not_here_is_refused_in_words(bench: Page, traffic: Traffic) -> None:
    bench.get_by_test_id("prompt-tokens").click()
    bench.get_by_test_id("tokens-other").select_option("a folder …")
    bench.get_by_test_id("tokens-folder").fill("/nowhere")
    bench.get_by_test_id("tokens-folder").press("Enter")
    expect(bench.get_by_test_id("tokens-dialog").get_by_role("alert")).to_contain_text("not on this machine")
    traffic.complaints = [said for said in traffic.complaints if not said.endswith("/queries/token_table")]
    bench.keyboard.press("Escape")


def test_prompt_and_companion_side_by_side(bench: Page, workbench: Any) -> None:
    workbench.session.intent("set_companion", {"text": IOI.replace("the store, John", "the big store, Mary")})
    bench.get_by_test_id("prompt-tokens").click()
    bench.get_by_test_id("tokens-both").click()
    rows = saved(bench)
    assert rows[0][-1] == "what it is"
    pairs = {int(row[0]): int(row[3]) for row in rows[1:] if row[0] and row[3]}
    model = workbench.session.model
    other = workbench.session.state.companion.prompt.ids
    assert pairs == rs.align_tokens(model.encode(IOI), other)
    assert [row[-1] for row in rows[1:] if row[-1]] == ["only in the companion", "exchanged"]
    bench.keyboard.press("Escape")
