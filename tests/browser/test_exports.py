"""Every picture as a file, on every tab: what is saved opens, and its numbers are Python's for what is on screen."""

import csv
import io
import os
import re
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import residscope as rs
from browser.steps import IOI, LAST, ROWS, choose, settled
from browser.test_methods import fill, open_method, run
from browser.test_prompts import DRAWN_MS, open_prompts
from browser.test_tokens import copied, shot

pytestmark = pytest.mark.browser
ENDINGS = ("svg", "png", "pdf", "html", "csv")
WATCHED = """() => {
  window.refusals = [];
  const look = () => {
    const why = document.querySelector('[data-testid="export-why"]')?.textContent;
    if (why) window.refusals.push([why, Number(document.querySelector('[data-testid="prompt-list"]').dataset.tokens)]);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
}"""
SVG = "{http://www.w3.org/2000/svg}"


def saved(page: Page, menu: Locator, id: str, folder: Path) -> dict[str, bytes]:
    """The picture in every ending, by that menu."""
    files = {}
    for ending in ENDINGS:
        menu.click()
        with page.expect_download() as download:
            page.get_by_test_id(f"{id}-{ending}").click()
        assert download.value.suggested_filename.endswith(f".{ending}")
        path = folder / f"picture.{ending}"
        download.value.save_as(path)
        files[ending] = path.read_bytes()
    if shots := os.environ.get("SHOTS"):  # for looking at
        (Path(shots) / f"{download.value.suggested_filename[:60]}.png").write_bytes(files["png"])
    return files


def text_of(svg: bytes) -> str:
    return " ".join(" ".join(ElementTree.fromstring(svg).itertext()).split())


def opens(files: dict[str, bytes]) -> list[dict[str, str]]:
    """Each is what its ending says, and they are one picture; answers the rows of the CSV."""
    root = ElementTree.fromstring(files["svg"])
    assert root.tag == f"{SVG}svg"
    width, height = (int(root.attrib[side]) for side in ("width", "height"))
    with Image.open(io.BytesIO(files["png"])) as png:
        assert png.size == (2 * width, 2 * height)
        drawn = np.asarray(png.convert("RGB"))
    pdf = files["pdf"]
    assert pdf.startswith(b"%PDF-1.4")
    box = [float(side) for side in re.search(rb"/MediaBox \[0 0 (\S+) (\S+)\]", pdf).groups()]  # type: ignore[union-attr]
    assert box == [width * 0.75, height * 0.75]
    begins = pdf.index(b"stream\n", pdf.index(b"/Subtype /Image")) + 7
    size = int(re.search(rb"/Subtype /Image.*?/Length (\d+)", pdf)[1])  # type: ignore[index]
    page = np.frombuffer(zlib.decompress(pdf[begins : begins + size]), np.uint8).reshape(drawn.shape)
    assert (page == drawn).all(), "the page of the PDF is the PNG"
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10
    rows = list(csv.DictReader(io.StringIO(files["csv"].decode())))
    html = files["html"].decode()
    assert html.count("<svg xmlns") == 1
    assert html.count("<tr>") == 1 + len(rows)
    assert "default-src 'none'" in html
    return rows


def values(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([float(row["value"]) for row in rows])


def subject(pdf: bytes) -> str:
    return bytes.fromhex(re.search(rb"/Subject <FEFF([0-9a-f]*)>", pdf)[1].decode()).decode("utf-16-be")  # type: ignore[index]


def sentence(page: Page) -> str:
    return " ".join(page.get_by_test_id("sentence").inner_text().split())


@pytest.mark.parametrize("direction", ["logit", 7])
def test_the_stream_in_every_ending_has_pythons_numbers(
    bench: Page, workbench: Any, tmp_path: Path, monkeypatch: Any, direction: Any
) -> None:
    choose(bench, direction=direction)
    bench.wait_for_load_state("networkidle")
    files = saved(bench, bench.get_by_test_id("export"), "export", tmp_path)
    rows = opens(files)
    wanted = copied(bench, workbench, monkeypatch)
    assert len(rows) == ROWS * (LAST + 1)
    assert np.allclose(values(rows), wanted.ravel(), rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    ids = [token.id for token in workbench.session.state.prompt.tokens]
    assert [int(row["token_id"]) for row in rows[: LAST + 1]] == ids
    said = sentence(bench)
    assert said in text_of(files["svg"])
    assert subject(files["pdf"]) == said
    assert said in files["html"].decode()


def test_prompts_in_every_ending_have_pythons_numbers(
    bench: Page, workbench: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    open_prompts(bench)
    bench.wait_for_load_state("networkidle")
    files = saved(bench, bench.get_by_test_id("export"), "export", tmp_path)
    rows = opens(files)
    wanted = copied(bench, workbench, monkeypatch)
    assert len(rows) == wanted.size > 16 + 20 * 40 - 1
    assert np.allclose(values(rows), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert sentence(bench) in text_of(files["svg"])
    ids = [int(row["token_id"]) for row in rows if row["prompt"] == "1"]
    assert ids == workbench.session.model.tokens(IOI)[0].tolist()
    tokens = len(list(ElementTree.fromstring(files["svg"]).iter(f"{SVG}title"))) - 1
    assert tokens == len(rows), "every prompt, however many are in sight"


def test_a_directions_two_ends_in_every_ending_are_cosines_with_the_unembedding(
    bench: Page, workbench: Any, tmp_path: Path
) -> None:
    choose(bench, place="pca@resid_post.9", direction=3)
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 3 of resid_post.9")
    bench.wait_for_load_state("networkidle")
    rows = opens(saved(bench, bench.get_by_test_id("poles-save"), "poles-save", tmp_path))
    model = workbench.session.model
    read = workbench.session.state.model.dictionaries["pca@resid_post.9"].read[3].double().numpy()
    unembedding = model.hf.lm_head.weight.detach().double().numpy()
    scale = model.hf.model.norm.weight.detach().double().numpy()
    assert {row["end"] for row in rows} == {"towards", "away"}
    for row in rows:
        reads = unembedding[model.token_id(row["token"])] * scale
        assert float(row["cosine"]) == pytest.approx(
            reads @ read / np.linalg.norm(reads) / np.linalg.norm(read), abs=2e-3
        )


def test_prompts_that_a_job_still_draws_are_not_saved_and_say_so(bench: Page) -> None:
    open_prompts(bench)
    bench.get_by_test_id("export").click()
    bench.evaluate(WATCHED)
    bench.get_by_test_id("prompts-new").evaluate("button => button.click()")  # the menu stays open
    expect(bench.get_by_test_id("export-why")).to_have_text(
        re.compile("^Not yet: .* Only whole pictures are saved\\.$")
    )
    for ending in ENDINGS:
        expect(bench.get_by_test_id(f"export-{ending}")).to_be_disabled()
    shot(bench, "prompts-refused")
    expect(bench.get_by_test_id("export-why")).to_have_count(0, timeout=DRAWN_MS)
    for ending in ENDINGS:
        expect(bench.get_by_test_id(f"export-{ending}")).to_be_enabled()
    told = list(dict.fromkeys(words for words, _ in bench.evaluate("() => window.refusals")))
    assert "these are still the prompts before" in told[0]
    counts = [int(number) for words in told for number in re.findall(r"(\d+) of 20 prompts are drawn so far", words)]
    assert counts[0] < 20
    assert counts == sorted(counts)
    for words, tokens in bench.evaluate("() => window.refusals"):
        if number := re.search(r"(\d+) of 20", words):
            assert tokens == 16 + 40 * int(number[1]), "as many as are on screen"
    if os.environ.get("SHOTS"):
        bench.keyboard.press("Escape")
        bench.get_by_test_id("theme-toggle").click()
        bench.get_by_test_id("export").click()
        shot(bench, "prompts-menu-dark")
        bench.keyboard.press("Escape")
        bench.get_by_test_id("theme-toggle").click()


def test_a_stream_that_is_behind_is_not_saved_and_says_so(bench: Page, workbench: Any) -> None:
    from bench.long_prompt import prompt  # the benchmark's own text

    workbench.session.intent("set_prompt", {"text": prompt(workbench.session.model)})
    bench.get_by_test_id("export").click()
    expect(bench.get_by_test_id("export-why")).to_contain_text("Not yet:")
    expect(bench.get_by_test_id("export-csv")).to_be_disabled()
    settled(bench)
    expect(bench.get_by_test_id("export-csv")).to_be_enabled(timeout=60_000)
    expect(bench.get_by_test_id("export-why")).to_have_count(0)


def test_a_methods_picture_in_every_ending_has_pythons_numbers(bench: Page, workbench: Any, tmp_path: Path) -> None:
    open_method(bench, "ablation-sweep")
    fill(bench, {"site": "z", "layers": "22-24"})
    run(bench)
    item = bench.get_by_test_id("item")
    expect(item).to_have_attribute("data-name", "Ablate everything once", timeout=DRAWN_MS)
    files = saved(bench, item.get_by_test_id("view-save").first, "save", tmp_path)
    rows = opens(files)
    model = workbench.session.model
    wanted = rs.ablation_sweep(model, IOI, rs.logit_diff(" Mary", " John"), site="z", layers=[22, 23, 24]).values
    found = np.array([float(row["logits"]) for row in rows])
    assert found.size == wanted.numel()
    assert np.allclose(np.sort(found), np.sort(wanted.numpy().ravel()), atol=1e-3)


def test_the_probes_pictures_in_every_ending_once_the_job_has_filled_them(
    bench: Page, workbench: Any, tmp_path: Path
) -> None:
    bench.get_by_role("tab", name="Probe").click()
    bench.get_by_test_id("probe-n").fill("48")
    bench.get_by_test_id("probe-fit").click()
    place = bench.get_by_test_id("probe-map")
    place.get_by_test_id("view-save").click(timeout=DRAWN_MS)
    expect(bench.get_by_test_id("probe-progress")).to_be_visible()
    expect(place.get_by_test_id("save-why")).to_have_text(
        "Not yet: the job is still filling it. Only whole pictures are saved."
    )
    for ending in ENDINGS:
        expect(place.get_by_test_id(f"save-{ending}")).to_be_disabled()
    expect(bench.get_by_test_id("probe-progress")).to_have_count(0, timeout=DRAWN_MS)
    settled(bench)
    expect(place.get_by_test_id("save-why")).to_have_count(0)
    bench.keyboard.press("Escape")
    (probe,) = workbench.session.snapshot()[1]["probes"]
    detail = workbench.session.query("probe", {"name": probe["name"]})
    rows = opens(saved(bench, place.get_by_test_id("view-save"), "save", tmp_path))
    wanted = [value for line in detail["map"]["values"] for value in line]
    assert [float(list(row.values())[2] or "nan") for row in rows] == pytest.approx(wanted, nan_ok=True)
    cloud = bench.get_by_test_id("probe-cloud")
    rows = opens(saved(bench, cloud.get_by_test_id("view-save"), "save", tmp_path))
    points = [[float(number) for number in list(row.values())[:2]] for row in rows[: len(detail["cloud"]["x"])]]
    assert np.allclose(points, np.array([detail["cloud"]["x"], detail["cloud"]["y"]]).T)
    target = bench.get_by_test_id("probe-target")
    opens(saved(bench, target.get_by_test_id("view-save"), "save", tmp_path))
    bench.get_by_test_id("clouds-ask").click()
    clouds = bench.get_by_test_id("probe-clouds")
    expect(clouds.get_by_role("img")).to_have_count(30, timeout=DRAWN_MS)
    expect(bench.get_by_test_id("clouds-head").locator("progress")).to_have_count(0, timeout=DRAWN_MS)
    rows = opens(saved(bench, clouds.get_by_test_id("view-save"), "save", tmp_path))
    assert len({row["picture"] for row in rows}) == 30
    (views,) = workbench.session.query("item", {"name": workbench.session.snapshot()[1]["items"]["items"][-1]["name"]})[
        "views"
    ]
    wanted = [point for view in views["views"] for point in zip(view["x"], view["y"], strict=True)]
    assert len(rows) == len(wanted) == 30 * 48
    assert np.allclose([(float(row["SV 0"]), float(row["SV 1"])) for row in rows], wanted)
