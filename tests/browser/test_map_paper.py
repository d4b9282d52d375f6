"""The map and the drawing of a layer as files for a paper: so wide, in either theme, with letters of six points and more."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LOAD_MS
from browser.test_exports import SVG, text_of
from browser.test_map import open_map
from browser.test_map_layer import lengths, unfold
from residscope.engine.flow import flow

pytestmark = pytest.mark.browser

LIGHT, DARK = "#fff", "#15181b"


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m")


def saved(page: Page, id: str, ending: str, folder: Path, *, mm: int, theme: str) -> bytes:
    page.get_by_test_id(id).click()
    page.get_by_test_id(f"{id}-width").select_option(str(mm))
    page.get_by_test_id(f"{id}-theme").select_option(theme)
    with page.expect_download() as download:
        page.get_by_test_id(f"{id}-{ending}").click()
    path = folder / f"{id}-{mm}-{theme}.{ending}"
    download.value.save_as(path)
    if shots := os.environ.get("SHOTS"):
        (Path(shots) / path.name).write_bytes(path.read_bytes())
    return path.read_bytes()


def readable(svg: bytes, mm: int, surface: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.attrib["width"] == f"{mm}mm"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    points = mm / 25.4 * 72 / width
    assert float(root.attrib["height"].removesuffix("mm")) == pytest.approx(mm * height / width, abs=0.01)
    texts = list(root.iter(f"{SVG}text"))
    assert len(texts) > 40
    smallest = min(float(text.attrib["font-size"]) * points for text in texts)
    assert smallest >= 5.99, f"letters of {smallest:.2f} pt"
    assert all(-20 <= float(text.attrib["x"]) <= width for text in texts)
    ground = next(iter(root.iter(f"{SVG}rect"))).attrib["fill"]
    assert ground == surface


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("mm", [175, 85])
def test_the_map(bench: Page, tmp_path: Path, mm: int, theme: str) -> None:
    open_map(bench)
    expect(bench.locator("[data-testid=map] svg text").filter(has_text="0.93")).to_have_count(1)
    svg = saved(bench, "export", "svg", tmp_path, mm=mm, theme=theme)
    readable(svg, mm, LIGHT if theme == "light" else DARK)
    words = text_of(svg)
    for said in ("H8", "MLP", "embed −0.04", "direct effect", "23", *(["lens top-1", "+4.26"] if mm == 175 else [])):
        assert said in words
    if theme == "dark":
        return
    dots = round(mm / 25.4 * 300)
    with Image.open(io.BytesIO(saved(bench, "export", "png", tmp_path, mm=mm, theme=theme))) as png:
        assert abs(png.width - dots) <= 4
    pdf = saved(bench, "export", "pdf", tmp_path, mm=mm, theme=theme)
    box = re.search(rb"/MediaBox \[0 0 (\S+) (\S+)\]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(mm / 25.4 * 72, abs=1)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("mm", [175, 85])
def test_the_layer_from_within(bench: Page, model: Any, tmp_path: Path, mm: int, theme: str) -> None:
    unfold(bench, 23, 3)
    svg = saved(bench, "flow-save", "svg", tmp_path, mm=mm, theme=theme)
    readable(svg, mm, LIGHT if theme == "light" else DARK)
    words = text_of(svg)
    for step in flow(model.layout, 23):
        assert step.place in words
        if step.same is None:
            assert step.equation in words.replace("… ", "") or step.equation.split(" ")[0] in words
    assert "…" not in words.replace("idea…", ""), "nothing is cut"
    rows = csv.DictReader(io.StringIO(saved(bench, "flow-save", "csv", tmp_path, mm=mm, theme=theme).decode()))
    values = {row["site"]: float(row["value"]) for row in rows}
    for place, value in lengths(model.run(IOI, capture=model.sites.names), 23, 3, -1).items():
        assert values[place] == pytest.approx(value, rel=1e-4)
