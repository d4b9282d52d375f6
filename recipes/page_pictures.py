"""The pictures of the page in README and docs, taken anew of the real model in Chromium.

python recipes/page_pictures.py            about seven minutes; writes docs/images/
python recipes/page_pictures.py features   those of the Features tab alone
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright

import residscope as rs
from residscope import features
from residscope.server import Server
from residscope.server.listen import offers
from residscope.session import Session
from residscope.store import open_library

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser.steps import IOI, choose, drag, open_mix, settled
from browser.test_tour import STEPS

OUT = Path(__file__).parent.parent / "docs/images"
LONG = 300_000  # milliseconds
FLAGS = ["--disable-gpu", "--no-sandbox"]


@contextmanager
def opened(browser: Browser, server: Server, *, dark: bool = False) -> Iterator[Page]:
    """The page as somebody sees it who has been here before."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.add_init_script("localStorage.setItem('residscope.welcomed', 'yes')")
    page.goto(server.url)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LONG)
    yield page
    context.close()


def take(page: Page, name: str) -> None:
    page.mouse.move(2, 2)
    page.wait_for_timeout(1500)
    page.screenshot(path=OUT / f"{name}.png")
    print(name, flush=True)


def stream(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        server.session.intent("add_edit", {"edit": {"kind": "ablate", "site": "z.23", "head": 3}})
        settled(page)
        take(page, "workbench")
        server.session.intent("set_edits", {"edits": []})


def mix(browser: Browser, server: Server, *, dark: bool) -> None:
    with opened(browser, server, dark=dark) as page:
        choose(page, place="pca@resid_post.23", direction=7)
        open_mix(page)
        page.get_by_test_id("mix-add").select_option("pca@resid_post.10")
        drag(page, "mix-slider-pca@resid_post.10-2", 0.8)
        page.mouse.up()
        take(page, "directions-dark" if dark else "directions")


def prompts(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        choose(page, place="pca@resid_post.23", direction=7)
        page.get_by_role("tab", name="Prompts").click()
        expect(page.locator('[data-own="false"]').first).to_be_visible(timeout=LONG)
        expect(page.get_by_test_id("prompts-waiting")).to_have_count(0, timeout=LONG)
        take(page, "prompts")


def library(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        choose(page, place="pca@resid_post.23", direction=7)
        page.get_by_test_id("direction-save").click()
        page.get_by_test_id("library-sign-in").click()
        page.get_by_test_id("library-name").fill("Ada")
        page.get_by_test_id("library-name-set").click()
        page.get_by_test_id("save-name").fill("who is spoken of")
        page.get_by_test_id("save-description").fill("high at articles, low at prepositions")
        page.get_by_test_id("save-submit").click()
        page.get_by_test_id("description-input").fill("fires after a verb of giving")
        page.get_by_test_id("description-add").click()
        page.get_by_test_id("vote-up").first.click()
        take(page, "library")
        page.get_by_test_id("theme-toggle").click()
        take(page, "library-dark")


def evidence(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        choose(page, place="pca@resid_post.23", direction=7)
        page.get_by_test_id("evidence-gather").click()
        expect(page.get_by_test_id("evidence-progress")).to_have_count(1, timeout=LONG)
        expect(page.get_by_test_id("evidence-progress")).to_have_count(0, timeout=LONG)
        take(page, "evidence")


def probe(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        page.get_by_role("tab", name="Probe").click()
        page.get_by_test_id("probe-n").fill("64")
        page.get_by_test_id("probe-fit").click()
        expect(page.get_by_test_id("probe-accuracy")).to_be_visible(timeout=LONG)
        expect(page.get_by_test_id("probe-progress")).to_have_count(0, timeout=LONG)
        page.get_by_test_id("probe-try").click()
        expect(page.get_by_test_id("probe-reads")).to_contain_text("labelled", timeout=LONG)
        settled(page)
        reads = float(page.get_by_test_id("probe-reads").get_attribute("data-value") or "nan")
        classes = server.session.snapshot()[1]["probes"][0]["classes"]
        page.get_by_test_id(f"probe-to-{classes[0 if reads > 0 else 1]}").click()
        expect(page.get_by_test_id("probe-answer")).not_to_contain_text("…", timeout=LONG)
        page.get_by_test_id("held-out-ask").click()
        expect(page.get_by_test_id("held-out-flips")).to_be_visible(timeout=LONG)
        page.get_by_test_id("held-out-flips").scroll_into_view_if_needed()
        take(page, "probe-tab")


def agreed(atlas: features.Atlas) -> int:
    """A neuron whose highest tokens are all one token, in as many rows of the text as there are of them: the highest such."""
    at, rows = atlas.top.ids[:, :, atlas.top.at], atlas.top.row
    apart = torch.tensor([len({*one}) for one in rows.tolist()]) >= rows.shape[1] - 1
    alike = (at == at[:, :1]).all(1) & apart
    return int(torch.where(alike, atlas.highest.nan_to_num(0), 0).argmax())


def of_features(browser: Browser, server: Server) -> None:
    """Layer 24's neurons in 12,000 tokens of two texts."""
    session = server.session
    assert session.wait(LONG / 1000)
    session.intent("set_prompt", {"text": IOI})
    atlases = {}
    for text in ("python-docs", "english"):
        atlases[text] = features.gather(session.model, text, site="mlp_post.24", tokens=12_000, k=8, progress=False)
        session.keep(f"neurons in {text}", atlases[text])
    index = agreed(atlases["english"])
    token = atlases["english"].top.of(index, session.model)[0].token
    for dark in (False, True):
        with opened(browser, server, dark=dark) as page:
            page.get_by_role("tab", name="Features").click()
            page.get_by_test_id("find").fill(token)
            page.locator(f"[data-testid=feature-row][data-index='{index}']").click()
            expect(page.get_by_test_id("effects-there")).to_be_visible(timeout=LONG)
            if dark:
                page.get_by_test_id("second-atlas").select_option(index=1)
                expect(page.get_by_test_id("examples-second").locator("canvas, svg").first).to_be_visible(timeout=LONG)
                page.get_by_test_id("feature-examples").evaluate("one => one.scrollIntoView()")
            take(page, "features-dark" if dark else "features")


def tour(browser: Browser, server: Server) -> None:
    """The pictures of docs/ioi.md, after the steps that its test takes."""
    with opened(browser, server) as page:
        for name, (step, _) in STEPS.items():
            step(page, server.session)
            if name != "cut-movers":
                take(page, f"ioi-{name}")
        server.session.intent("set_edits", {"edits": []})
        server.session.intent("set_companion", {"text": None})


def all_others(browser: Browser, server: Server) -> None:
    stream(browser, server)
    tour(browser, server)
    mix(browser, server, dark=False)
    mix(browser, server, dark=True)
    prompts(browser, server)
    library(browser, server)
    evidence(browser, server)
    probe(browser, server)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    session = Session(load=rs.load, offers=offers, folder=folder)
    session.load("smollm2-135m")
    with Server(session, port=0, library=open_library(folder=folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        if sys.argv[1:] != ["features"]:
            all_others(browser, server)
        of_features(browser, server)
        browser.close()


if __name__ == "__main__":
    main()
