"""A stranger's package of one file, installed by pip, on the page: in palette, form and job; a broken one is named."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browser.test_edits import fill
from session.worlds import tokenizer
from test_plugins import BROKEN, POINTS, PROJECT, SCRATCH, SOURCE, installed
from tiny_models import tiny_llama

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, in an environment where the two packages are installed."""
    at: Path = tmp_path_factory.mktemp("plugins")
    for name, code, points in (
        ("scratch", SCRATCH, POINTS),
        ("broken_plugin", "raise RuntimeError('not today')\n", BROKEN),
    ):
        package = at / f"{name}-source"
        package.mkdir()
        (package / "pyproject.toml").write_text(PROJECT.format(name=name, points=points))
        (package / f"{name}.py").write_text(code)
        installed(package, at / "site")
    tiny_llama().float().save_pretrained(at / "model")
    tokenizer().save_pretrained(at / "model")
    environment = os.environ | {"PYTHONPATH": f"{at / 'site'}{os.pathsep}{SOURCE}", "RESIDSCOPE_DATA": str(at / "data")}
    command = [sys.executable, "-m", "residscope", "open", str(at / "model"), "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\S+", line):
                    yield found[0]
                    break
            else:
                pytest.fail("the server did not start")
        finally:
            server.terminate()


def test_a_method_and_an_edit_of_one_file_are_there_and_nothing_else_was_written(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=120_000)

    page.keyboard.press("/")
    page.get_by_label("Command", exact=True).fill("count tokens")
    expect(page.get_by_role("option", name="Count tokens")).to_be_visible(timeout=60_000)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("plugin-broken").first).to_contain_text("not today")
    expect(page.get_by_test_id("method-form")).to_contain_text("How many tokens each prompt has")
    fill(page, {"prompts": "typed", "prompts-text": "abc\nabcde", "rounds": "4"})
    page.get_by_test_id("method-run").click()
    expect(page.get_by_test_id("item")).to_have_attribute("data-name", "Count tokens", timeout=60_000)
    page.get_by_test_id("item-table").click()
    rows = page.get_by_test_id("view-values").locator("tbody tr")
    shown = rows.evaluate_all("rows => rows.map(row => Number(row.cells[1].dataset.value))")
    assert shown[1] - shown[0] == 2
    page.get_by_test_id("item-python").click()
    expect(page.get_by_text("from scratch import token_counts")).to_be_visible()
    page.keyboard.press("Escape")

    page.get_by_test_id("add-edit").click()
    page.get_by_test_id("edit-kind").select_option("halve")
    fill(page, {"site": "z", "site-layer": "1", "head": "1"})
    page.get_by_test_id("edit-submit").click()
    expect(page.get_by_test_id("edits-list")).to_contain_text("½")
    page.get_by_test_id("method-look").click()
    expect(page.get_by_label("Task", exact=True)).to_contain_text("Letters of the alphabet")
