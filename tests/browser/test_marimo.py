"""The workbench in a real marimo, whose page stands in a shadow of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser.lab import SRC, free_port

pytestmark = pytest.mark.browser

MS = 60_000
NOTEBOOK = """
import marimo

app = marimo.App(width="full")


@app.cell
def _():
    import residscope as rs
    from residscope import edits

    wb = rs.workbench("smollm2-135m")
    wb
    return edits, rs, wb


@app.cell
def _(edits, wb):
    wb.edits = (edits.ablate("z.23", head=3),)
    return


@app.cell
def _(wb):
    told = open("told.txt", "a")
    wb.on_change(lambda name, value: print(name, value, file=told, flush=True), "edits")
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "page.py").write_text(NOTEBOOK)
    port = free_port()
    own = {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "RESIDSCOPE_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--no-token", "-p", str(port), "page.py"]
    with (tmp_path / "marimo.log").open("w") as log:
        marimo = subprocess.Popen(command, env={**os.environ, **own}, cwd=tmp_path, stdout=log, stderr=log)
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            marimo.terminate()
            marimo.wait(20)
    assert "Error handling" not in (tmp_path / "marimo.log").read_text()


def test_code_and_page_share_a_session(browser: Browser, served: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1900, "height": 1300})
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(served)
    status = page.get_by_test_id("status")
    expect(status).to_have_attribute("data-phase", "idle", timeout=MS)
    expect(page.locator("[data-edit]")).to_have_count(1, timeout=MS)
    height = page.locator(".residscope").evaluate("element => element.clientHeight")
    assert height == 720  # its style has reached it in there
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "false")
    expect(status).to_have_attribute("data-phase", "idle", timeout=MS)
    deadline = time.monotonic() + 20
    while "edits ()" not in (tmp_path / "told.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "told.txt").read_text().splitlines()[-1] == "edits ()"
    assert failed == []
    page.close()
