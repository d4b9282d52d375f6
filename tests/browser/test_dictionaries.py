"""An encoder of 24,576 features on the page, brought in by its file: coloured by, mixed, edited, shared, against plain torch."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

import residscope as rs
from browser.steps import IOI, LAST, cells, choose, grid, metric, open_mix, opened, said, settled
from residscope import directions
from residscope.directions import EncoderDictionary

pytestmark = pytest.mark.browser
MANY, FEATURE = 24_576, 20_000
READ, WRITE = "resid_post.12", "resid_post.14"
ID, PC = f"sae@{READ}", "pca@resid_post.23"
ROW, POS = 13, 10  # resid_post.12, where it reads


@pytest.fixture(scope="module")
def sae(workbench: Any) -> EncoderDictionary:
    assert workbench.session.wait(240)
    d, draw = workbench.session.model.d_model, torch.Generator().manual_seed(24)
    read, write = (torch.randn(MANY, d, generator=draw) / d**0.5 for _ in range(2))
    bias, mean, base = torch.randn(MANY, generator=draw), torch.randn(d, generator=draw), torch.zeros(d)
    return EncoderDictionary("sae", READ, read, write, mean=mean, bias=bias, base=base, written=WRITE)


@pytest.fixture
def brought(bench: Page, workbench: Any, sae: EncoderDictionary, tmp_path: Path) -> Iterator[Page]:
    """The page, once it has taken the encoder in by its file: the first of the tests does, for an id is given once."""
    if ID not in workbench.session.state.model.dictionaries:
        file = tmp_path / "features.safetensors"
        directions.save(file, sae, workbench.session.model)
        assert file.stat().st_size > 100 << 20
        bench.get_by_role("tab", name="Methods").click()
        bench.get_by_test_id("shelf-import").set_input_files(file)
        expect(bench.get_by_test_id("item")).to_have_attribute("data-name", re.compile("^features"), timeout=60_000)
        bench.get_by_role("tab", name="Stream").click()
    choose(bench, kind="sae")
    said(bench, "place", ID)
    yield bench
    workbench.session.intent("set_edits", {"edits": []})


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at, in both themes."""
    if folder := os.environ.get("SHOTS"):
        for theme in ("light", "dark"):
            page.wait_for_timeout(400)
            page.screenshot(path=Path(folder) / f"{name}-{theme}.png")
            page.get_by_test_id("theme-toggle").dispatch_event("click")  # which leaves open what a press would close


def stream(workbench: Any) -> torch.Tensor:
    model = workbench.session.model
    run = model.run(IOI, ["resid_pre.0", "resid_post"])
    return torch.stack([run["resid_pre.0"][0], *(run[f"resid_post.{i}"][0] for i in range(model.n_layers))]).double()


def activation(sae: EncoderDictionary, x: torch.Tensor, i: int) -> torch.Tensor:
    return torch.relu((x - sae.mean.double()) @ sae.read[i].double() + sae.bias[i].double())


def same(shown: list[list[float]], wanted: torch.Tensor) -> None:
    found = torch.tensor(shown, dtype=torch.float64)
    assert wanted.any()
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def show(page: Page, number: int) -> None:
    choose(page, direction=number)
    expect(page.get_by_test_id("direction-card")).to_contain_text(f"sae {number} of {READ}", timeout=20_000)


def slide(page: Page, test_id: str, steps: int) -> float:
    """By steps of 0.05 from where it is; answers where it is then."""
    slider = page.get_by_test_id(test_id)
    slider.focus()
    for _ in range(abs(steps)):
        slider.press("ArrowRight" if steps > 0 else "ArrowLeft")
    page.wait_for_timeout(200)
    return float(slider.input_value())


def test_the_stream_is_coloured_by_one_feature_of_24_576(brought: Page, workbench: Any, sae: EncoderDictionary) -> None:
    with opened(brought, "direction"):
        expect(brought.get_by_test_id("pick-number")).to_have_attribute("placeholder", f"0–{MANY - 1}")
    show(brought, FEATURE)
    said(brought, "unit", "activation")
    expect(brought.get_by_test_id("say-unit")).to_have_attribute("title", re.compile("^Activation"))
    with opened(brought, "unit"):
        expect(brought.get_by_test_id("unit-activation")).to_have_attribute("aria-pressed", "true")
        for other in ("centred", "raw", "cos"):
            expect(brought.get_by_test_id(f"unit-{other}")).to_have_count(0)
    shot(brought, "encoder-grid")
    same(cells(brought, n_pos=LAST + 1), activation(sae, stream(workbench), FEATURE))
    expect(brought.get_by_test_id("direction-card")).to_contain_text("Linear: read before the ReLU")
    choose(brought, direction=MANY)
    expect(brought.get_by_test_id("notice")).to_contain_text("0 to 24,575")
    said(brought, "direction", str(FEATURE))
    brought.get_by_test_id("copy-python").click()
    expect(brought.get_by_test_id("python-code")).to_contain_text(f"encode(x.float(), indices=[{FEATURE}])[..., 0]")
    brought.keyboard.press("Escape")


def test_the_strongest_at_a_cell_are_picked_from_and_mixed_with_a_component(
    brought: Page, workbench: Any, sae: EncoderDictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(brought, FEATURE)
    workbench.session.intent("select", {"layer": ROW - 1, "pos": POS})
    expect(brought.get_by_test_id("readout")).to_contain_text(f"{READ} at {POS}")
    brought.get_by_test_id("say-direction").click()
    brought.get_by_test_id("pick-strongest").click()
    x = stream(workbench)
    every = torch.relu((x[ROW, POS] - sae.mean.double()) @ sae.read.double().T + sae.bias.double())
    listed = brought.get_by_test_id("pick-list").locator("button")
    expect(listed).to_have_count(12, timeout=20_000)
    strongest = [int(one.get_attribute("data-index") or -1) for one in listed.all()]
    assert strongest == every.topk(12).indices.tolist()
    shot(brought, "encoder-strongest")
    listed.nth(1).click()
    brought.keyboard.press("Escape")
    said(brought, "direction", str(strongest[1]))
    expect(brought.get_by_test_id("readout")).to_have_attribute("data-value", re.compile(r"^\d+\.\d+"))
    same(cells(brought, n_pos=LAST + 1), activation(sae, x, strongest[1]))

    open_mix(brought)
    brought.get_by_test_id("mix-add").select_option(PC)
    expect(brought.get_by_test_id(f"mix-slider-{PC}-1")).to_be_visible()
    weight = slide(brought, f"mix-slider-{PC}-1", 8)
    assert weight == pytest.approx(0.4)
    said(brought, "unit", "mixed")
    expect(brought.get_by_test_id("say-unit")).to_have_attribute("title", re.compile("^Weighted sum: .+ x·d centred"))
    known = workbench.session.state.model.dictionaries
    pca = known[PC]
    sites = ["resid_pre.0", *(f"resid_post.{i}" for i in range(len(x) - 1))]
    means = torch.stack([known[f"pca@{site}"].mean.double() for site in sites])[:, None]
    wanted = activation(sae, x, strongest[1]) + weight * ((x - means) @ pca.read[1].double())
    picture = cells(brought, n_pos=LAST + 1)
    same(picture, wanted)
    brought.get_by_test_id("copy-python").click()
    expect(brought.get_by_test_id("python-code")).to_contain_text("cells = picture(baseline)")
    namespace: dict[str, Any] = {}
    monkeypatch.setattr(rs, "load", lambda name, **options: workbench.session.model)
    exec(compile(brought.get_by_test_id("python-code").inner_text(), "<pasted>", "exec"), namespace)
    every = torch.tensor(picture)
    assert (namespace["cells"] - every).abs().max() <= 1e-5 * every.abs().max()
    brought.keyboard.press("Escape")
    brought.get_by_test_id("table-toggle").click()
    brought.get_by_test_id("algebra-open").click()
    shot(brought, "encoder-mix")
    choose(brought, unit="unit-mixed-raw")
    same(cells(brought, n_pos=LAST + 1), activation(sae, x, strongest[1]) + weight * (x @ pca.read[1].double()))


def test_what_is_made_of_a_picture_says_that_it_is_linear(
    brought: Page, workbench: Any, sae: EncoderDictionary
) -> None:
    show(brought, FEATURE)
    brought.keyboard.press("s")
    expect(brought.get_by_test_id("notice").first).to_contain_text(
        "Steers along the linear direction: read before the ReLU"
    )
    expect(brought.get_by_test_id("edits-list").locator("li")).to_have_count(1)
    settled(brought)
    model, state = workbench.session.model, workbench.session.state
    (spec,) = workbench.session.snapshot()[1]["edits"]
    answers = rs.logit_diff(state.metric.positive.id, state.metric.negative.id)
    steer = rs.edits.steer(spec["site"], sae[FEATURE], spec["strength"], unit=spec["unit"], pos=spec["pos"])
    assert metric(brought, "b") == pytest.approx(answers(model.run(IOI, edits=[steer])).item(), abs=1e-3)

    brought.get_by_test_id("library-toggle").click()
    brought.get_by_test_id("library-sign-in").click()
    brought.get_by_test_id("library-name").fill("ada")
    brought.get_by_test_id("library-name-set").click()
    brought.get_by_test_id("direction-save").click()
    form = brought.locator("form").filter(has=brought.get_by_test_id("save-name"))
    expect(form.get_by_test_id("linear-note")).to_contain_text("What is saved is linear: read before the ReLU")
    shot(brought, "encoder-save")
    brought.get_by_test_id("save-name").fill("a feature")
    brought.get_by_test_id("save-submit").click()
    expect(brought.get_by_test_id("one-name")).to_have_text("a feature", timeout=20_000)
    brought.get_by_text("How it was made").click()
    expect(brought.get_by_test_id("library-one").locator("pre")).to_contain_text(sae.hash)
    brought.get_by_test_id("library-toggle").click()


def test_a_page_of_prompts_is_coloured_by_the_feature(brought: Page, workbench: Any, sae: EncoderDictionary) -> None:
    show(brought, FEATURE)
    workbench.session.intent("select", {"layer": 27, "pos": 4})
    expect(brought.get_by_test_id("readout")).to_contain_text("resid_post.27 at 4")
    brought.get_by_role("tab", name="Prompts").click()
    first = brought.get_by_test_id("prompt-0")
    expect(first).to_have_attribute("data-own", "true", timeout=60_000)
    first.locator("[data-token]").nth(4).hover()
    shown = brought.get_by_test_id("prompts-readout")
    expect(shown).to_contain_text("prompt 1, token 4", timeout=20_000)
    expect(shown).to_have_attribute("data-value", re.compile(r"^\d+\.\d+"), timeout=20_000)
    value = float(shown.get_attribute("data-value") or "nan")
    assert value == pytest.approx(float(activation(sae, stream(workbench)[28, 4], FEATURE)), rel=1e-4)
    assert value > 0
    brought.get_by_role("tab", name="Stream").click()


def test_a_transcoder_inside_the_blocks_is_read_there_in_every_layer(
    bench: Page, workbench: Any, tmp_path: Path
) -> None:
    model, draw, n = workbench.session.model, torch.Generator().manual_seed(7), 1000
    d, id = model.d_model, "transcoder@mlp_in.12"
    read, write = (torch.randn(n, d, generator=draw) / d**0.5 for _ in range(2))
    bias, zero = torch.randn(n, generator=draw), torch.zeros(d)
    made = EncoderDictionary(
        "transcoder", "mlp_in.12", read, write, zero, bias, zero, "topk", written="mlp_out.12", k=50
    )
    directions.save(tmp_path / "transcoder.safetensors", made, model)
    workbench.session.import_item((tmp_path / "transcoder.safetensors").read_bytes(), "transcoder")
    choose(bench, kind="transcoder")
    recording = model.run(IOI, ["mlp_in"])
    x = torch.stack([recording["mlp_in", layer][0] for layer in range(model.n_layers)]).double()
    p = x @ read.double().T + bias.double()
    every = torch.where((p >= p.topk(50, dim=-1).values[..., -1:]) & (p > 0), p, 0)
    strong = int(every[12, POS].argmax())
    choose(bench, direction=strong)
    expect(bench.get_by_test_id("direction-card")).to_contain_text("read before the top-k", timeout=20_000)
    same(grid(bench, rows=model.n_layers, n_pos=LAST + 1), every[..., strong])
    workbench.session.intent("select", {"layer": 12, "pos": POS})
    expect(bench.get_by_test_id("readout")).to_contain_text(f"mlp_in.12 at {POS}")
    with opened(bench, "direction"):
        bench.get_by_test_id("pick-strongest").click()
        expect(bench.get_by_test_id("pick-list").locator("button").first).to_have_attribute("data-index", str(strong))
    open_mix(bench)
    expect(bench.get_by_test_id("mix-add").locator("option")).to_have_count(1)  # nothing else is read there
    bench.get_by_test_id("table-toggle").click()
    bench.get_by_test_id("fit-open").click()
    expect(bench.get_by_test_id("scree")).to_contain_text("no scree plot")
    shot(bench, "transcoder")
    bench.get_by_test_id("fit-forget").click()
    with opened(bench, "direction"):
        expect(bench.get_by_test_id("pick-kind").locator("option[value=transcoder]")).to_have_count(0)
    expect(bench.get_by_test_id("missing-dictionary")).to_have_count(0)
    assert id not in workbench.session.state.model.dictionaries


def test_a_feature_is_edited_and_shared_and_missed_where_it_is_not(
    brought: Page, workbench: Any, sae: EncoderDictionary, browser: Browser
) -> None:
    brought.context.grant_permissions(["clipboard-read", "clipboard-write"])
    model, x = workbench.session.model, stream(workbench)
    every = torch.relu((x[ROW, -1] - sae.mean.double()) @ sae.read.double().T + sae.bias.double())
    strong = int(every.argmax())
    show(brought, strong)
    brought.get_by_test_id("feature-edit").click()
    expect(brought.get_by_test_id("field-dictionary")).to_have_value(ID)
    expect(brought.get_by_test_id("field-index")).to_have_value(str(strong))
    brought.get_by_test_id("field-scale").fill("-3")
    shot(brought, "encoder-edit")
    brought.get_by_test_id("edit-submit").click()
    expect(brought.get_by_test_id("edits-list")).to_contain_text(f"sae {strong}")
    settled(brought)
    state = workbench.session.state
    answers = rs.logit_diff(state.metric.positive.id, state.metric.negative.id)
    edited = answers(model.run(IOI, edits=[rs.edits.feature(sae, strong, scale=-3.0)])).item()
    plain = answers(model.run(IOI)).item()
    assert abs(edited - plain) > 0.01
    assert metric(brought, "b") == pytest.approx(edited, abs=1e-3)
    brought.get_by_test_id("share").click()
    expect(brought.get_by_test_id("notice")).to_contain_text("Link copied")
    link = brought.evaluate("navigator.clipboard.readText()")
    assert link.count(sae.hash) == 2  # of the view and of the edit
    shown = cells(brought, n_pos=LAST + 1)
    workbench.session.intent("set_edits", {"edits": []})

    def opened() -> Page:
        page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
        page.goto(workbench.url)
        page.goto("about:blank")
        page.goto(link)
        return page

    page = opened()
    said(page, "direction", str(strong))
    expect(page.get_by_test_id("edits-list")).to_contain_text(f"sae {strong}", timeout=20_000)
    settled(page)
    assert cells(page, n_pos=LAST + 1) == shown
    assert metric(page, "b") == pytest.approx(edited, abs=1e-3)
    page.context.close()

    workbench.session.intent("set_edits", {"edits": []})
    workbench.session.intent("forget_dictionary", {"id": ID})
    page = opened()
    expect(page.get_by_test_id("missing-dictionary")).to_contain_text(ID, timeout=20_000)
    expect(page.get_by_test_id("missing-dictionary")).to_contain_text(sae.hash[:16])
    expect(page.get_by_test_id("no-direction")).to_be_visible()
    expect(page.get_by_test_id("notice").filter(has_text=sae.hash)).to_be_visible()
    expect(page.get_by_test_id("edits-list").locator("li")).to_have_count(0)
    shot(page, "encoder-missing")
    page.get_by_test_id("missing-leave-out").click()
    expect(page.get_by_test_id("missing-dictionary")).to_have_count(0)
    page.context.close()
