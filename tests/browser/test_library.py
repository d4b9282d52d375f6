"""Two people at one library: saved, described, voted on, searched, opened by link, undone, sent round, tested blind."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.steps import LOAD_MS, choose

pytestmark = pytest.mark.browser
BLIND_MS = 120_000
MARKUP = '<img src=x onerror="window.broken = 1"><script>window.broken = 1</script> <b>plural</b> 👩‍🔬 עברית'
Come = Callable[..., Page]


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at."""
    if folder := os.environ.get("SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def come(browser: Browser, browser_context_args: dict[str, Any], workbench: Any) -> Iterator[Come]:
    """Somebody's browser, a context of its own, with the library open and a name given; nothing it shows may run."""
    contexts, errors = [], []

    def come(name: str | None = None, query: str = "", **options: Any) -> Page:
        context = browser.new_context(**{**browser_context_args, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{workbench.url}{query}")
        expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
        if name is not None:
            page.get_by_test_id("library-toggle").click()
            sign_in(page, name)
        return page

    yield come
    assert [page.evaluate("window.broken") for context in contexts for page in context.pages] == [None] * len(contexts)
    assert errors == []
    for context in contexts:
        context.close()


def sign_in(page: Page, name: str) -> None:
    page.get_by_test_id("library-sign-in").click()
    page.get_by_test_id("library-name").fill(name)
    page.get_by_test_id("library-name-set").click()
    expect(page.get_by_test_id("library-me")).to_have_text(name)


def save(page: Page, name: str, description: str, *, component: int = 1) -> str:
    """The component on screen, through the direction's card; answers the entry's id."""
    choose(page, direction=component)
    page.get_by_test_id("direction-save").click()
    page.get_by_test_id("save-name").fill(name)
    page.get_by_test_id("save-description").fill(description)
    page.get_by_test_id("save-submit").click()
    expect(page.get_by_test_id("one-name")).to_have_text(name)
    return re.search(r"directions/([0-9a-f-]{36})", page.get_by_test_id("one-export").get_attribute("href") or "")[1]


def find(page: Page, name: str) -> None:
    """Search for a direction, and read it."""
    if page.get_by_test_id("library-back").count():
        page.get_by_test_id("library-back").click()
    page.get_by_test_id("library-search").fill(name)
    page.get_by_test_id("library-entry").filter(has_text=name).first.click()
    expect(page.get_by_test_id("one-name")).to_have_text(name)


def votes(page: Page, text: str) -> tuple[str, str]:
    said = page.get_by_test_id("description").filter(has_text=text)
    return said.get_by_test_id("vote-up").inner_text().strip(), said.get_by_test_id("vote-down").inner_text().strip()


def test_what_one_saves_another_finds_votes_on_and_describes(come: Come) -> None:
    ada, bob = come("Ada"), come()
    id = save(ada, "the first voices", "fires on the first name of a story")
    expect(ada.get_by_test_id("one-owner")).to_have_text("Ada")

    bob.keyboard.press("b")
    find(bob, "the first voices")
    said = bob.get_by_test_id("description").filter(has_text="first name")
    said.get_by_test_id("vote-up").click()  # a name is asked for, and the vote is then given
    bob.get_by_test_id("library-name").fill("Bob")
    bob.get_by_test_id("library-name-set").click()
    expect(said.get_by_test_id("vote-up")).to_have_attribute("aria-pressed", "true")
    assert votes(bob, "first name") == ("1", "0")
    expect(bob.get_by_test_id("one-rename")).to_have_count(0)
    expect(said.get_by_test_id("description-edit")).to_have_count(0)
    bob.get_by_test_id("description-input").fill("the subject of the first clause, rather")
    bob.get_by_test_id("description-add").click()
    expect(bob.get_by_test_id("description")).to_have_count(2)
    bob.get_by_test_id("comment-input").fill("does it hold for *she*?")
    bob.get_by_test_id("comment-add").click()
    expect(bob.get_by_test_id("comment")).to_contain_text("Bob")

    bob.reload()
    expect(bob.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
    bob.keyboard.press("b")
    find(bob, "the first voices")
    expect(bob.get_by_test_id("library-me")).to_have_text("Bob")
    again = bob.get_by_test_id("description").filter(has_text="first name")
    expect(again.get_by_test_id("vote-up")).to_have_attribute("aria-pressed", "true")
    again.get_by_test_id("vote-up").click()
    expect(again.get_by_test_id("vote-up")).to_have_attribute("aria-pressed", "false")
    assert votes(bob, "first name") == ("0", "0")
    again.get_by_test_id("vote-down").click()
    expect(again.get_by_test_id("vote-down")).to_have_attribute("aria-pressed", "true")
    assert votes(bob, "first name") == ("0", "1")

    find(ada, "the first voices")
    assert votes(ada, "first name") == ("0", "1")
    rather = ada.get_by_test_id("description").filter(has_text="rather")
    rather.get_by_test_id("vote-up").click()
    expect(rather.get_by_test_id("vote-up")).to_contain_text("1")
    find(ada, "the first voices")
    expect(ada.get_by_test_id("description-text").first, "the best description stands first").to_contain_text("rather")
    shot(ada, "one")
    assert id


def test_search_narrows_and_an_empty_answer_says_what_to_do(come: Come) -> None:
    ada, bob = come("Ada of search"), come("Bob of search")
    save(ada, "quiet commas", "high after a comma", component=2)
    save(bob, "loud verbs", "high on auxiliary verbs", component=3)
    bob.get_by_test_id("library-back").click()

    def shown(page: Page) -> set[str]:
        page.wait_for_timeout(700)
        found = page.get_by_test_id("library-entry").all_inner_texts()
        return {name for name in ("quiet commas", "loud verbs") if any(name in text for text in found)}

    assert shown(bob) == {"quiet commas", "loud verbs"}
    bob.get_by_test_id("library-search").fill("AUXILIARY verbs")
    assert shown(bob) == {"loud verbs"}
    bob.get_by_test_id("library-search").fill("")
    bob.get_by_test_id("library-mine").check()
    assert shown(bob) == {"loud verbs"}
    bob.get_by_test_id("library-mine").uncheck()
    bob.get_by_test_id("library-user").fill("ada OF search")
    assert shown(bob) == {"quiet commas"}
    bob.get_by_test_id("library-site").fill("mlp_out")
    expect(bob.get_by_test_id("library-empty")).to_be_visible()
    shot(bob, "nothing")
    bob.get_by_test_id("library-empty").get_by_role("button").click()
    assert shown(bob) == {"quiet commas", "loud verbs"}


def test_a_link_opens_it_on_screen(come: Come, workbench: Any) -> None:
    ada = come("Ada")
    id = save(ada, "shared by link", "d", component=4)
    bob = come(query=f"&direction={id}")
    expect(bob.get_by_test_id("library")).to_be_visible()
    expect(bob.get_by_test_id("one-name")).to_have_text("shared by link")
    expect(bob.get_by_test_id("one-open")).to_have_attribute("aria-pressed", "true", timeout=20_000)
    expect(bob.get_by_test_id("direction-card")).to_contain_text("shared by link")
    assert "token" not in bob.url
    held = {direction["library"]: direction["name"] for direction in workbench.session.snapshot()[1]["directions"]}
    assert held[id] == "shared by link"
    bob.keyboard.press("Escape")
    shot(bob, "on_screen")


def test_what_is_deleted_comes_back_with_undo(come: Come) -> None:
    ada = come("Ada")
    save(ada, "soon gone", "d", component=5)
    ada.get_by_test_id("one-rename").click()
    ada.get_by_test_id("rename-input").fill("renamed, soon gone")
    ada.get_by_test_id("rename-set").click()
    expect(ada.get_by_test_id("one-name")).to_have_text("renamed, soon gone")
    ada.get_by_test_id("one-delete").click()
    expect(ada.get_by_test_id("library-entry").filter(has_text="soon gone")).to_have_count(0)
    ada.get_by_test_id("notice-action").click()
    expect(ada.get_by_test_id("one-name")).to_have_text("renamed, soon gone")
    ada.get_by_test_id("description-delete").click()
    expect(ada.get_by_test_id("description")).to_have_count(0)
    ada.get_by_test_id("notice-action").last.click()
    expect(ada.get_by_test_id("description")).to_have_count(1)


def test_a_file_goes_from_one_to_the_other(come: Come, tmp_path: Path) -> None:
    ada, bob = come("Ada"), come("Bob")
    save(ada, "sent round", "from file to file", component=6)
    with ada.expect_download() as waiting:
        ada.get_by_test_id("one-export").click()
    file = tmp_path / "direction.safetensors"
    waiting.value.save_as(file)
    bob.get_by_test_id("library-file").set_input_files(file)
    expect(bob.get_by_test_id("one-name")).to_have_text("sent round")
    expect(bob.get_by_test_id("one-owner")).to_have_text("Ada")  # it is here already, and stays whose it is
    ada.get_by_test_id("one-delete").click()
    expect(ada.get_by_test_id("notice-action")).to_be_visible()  # it is gone, not only asked for
    bob.get_by_test_id("library-file").set_input_files(file)
    expect(bob.get_by_test_id("one-owner")).to_have_text("Bob")
    expect(bob.get_by_test_id("description-text")).to_have_text("from file to file")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-8])
    bob.get_by_test_id("library-file").set_input_files(damaged)
    expect(bob.get_by_test_id("import-error")).to_contain_text("damaged.safetensors")
    expect(bob.get_by_test_id("import-error")).to_contain_text("direction's file")


def test_what_people_write_is_text(come: Come) -> None:
    ada = come("<i>Ada</i> 🙂")
    save(ada, "<b>bold</b> & שלום", MARKUP, component=7)
    expect(ada.get_by_test_id("description-text")).to_have_text(MARKUP)
    expect(ada.get_by_test_id("one-owner")).to_have_text("<i>Ada</i> 🙂")
    ada.get_by_test_id("comment-input").fill(MARKUP)
    ada.get_by_test_id("comment-add").click()
    expect(ada.get_by_test_id("comment")).to_contain_text(MARKUP)
    ada.get_by_test_id("library-back").click()
    expect(ada.get_by_test_id("library-entry").first).to_contain_text("<b>bold</b> & שלום")
    assert ada.locator("[data-testid=library] :is(img, script, b:has-text('bold'))").count() == 0
    isolated = "all => all.every(each => ['isolate', 'plaintext'].includes(getComputedStyle(each).unicodeBidi))"
    assert ada.locator("[data-testid=library] bdi").evaluate_all(isolated)
    shot(ada, "text")
    ada.get_by_test_id("library-entry").first.click()
    for refused in ("x" * 1_000_000, "turned \u202e round", "\u200b"):
        ada.get_by_test_id("description-input").fill(refused)
        ada.get_by_test_id("description-add").click()
        expect(ada.get_by_test_id("notice").last).to_contain_text(re.compile("too long|cannot be shown|nothing of it"))
    expect(ada.get_by_test_id("description")).to_have_count(1)


def test_a_description_is_tested_blind_to_its_score(come: Come) -> None:
    ada, bob = come("Ada"), come("Bob the tester", color_scheme="dark")
    save(ada, "to be tested", "high at names of people", component=1)
    find(bob, "to be tested")
    guess_all(bob, right=False)
    result = bob.get_by_test_id("blind-result")
    assert -1 <= float(result.get_attribute("data-score") or "nan") <= 1
    assert bob.get_by_test_id("blind-value").count() >= 12
    expect(bob.get_by_test_id("blind-summary")).to_have_attribute("data-people", "1")
    shot(bob, "blind_result")
    bob.get_by_test_id("blind-leave").click()
    expect(bob.get_by_test_id("blind-summary")).to_contain_text("1 person")
    find(ada, "to be tested")
    guess_all(ada, right=True)
    expect(ada.get_by_test_id("blind-summary")).to_have_attribute("data-people", "1")
    expect(ada.get_by_test_id("blind-summary")).to_contain_text("the author's own")


def guess_all(page: Page, *, right: bool) -> None:
    page.get_by_test_id("blind-start").click()
    expect(page.get_by_test_id("blind-context")).to_be_visible(timeout=BLIND_MS)
    for turn in range(20):
        marked = page.locator("[data-marked]").inner_text()
        slider = page.get_by_test_id("blind-slider")
        slider.fill("0.6" if marked[-1:].isupper() or marked[1:2].isupper() else str(-0.5 + turn / 40))
        if turn == 4:
            shot(page, "blind" if right else "blind_dark")
        expect(page.get_by_test_id("blind-result")).to_have_count(0)
        last = page.get_by_test_id("blind-next").inner_text() == "Show the score"
        page.get_by_test_id("blind-next").click()
        if last:
            break
    expect(page.get_by_test_id("blind-result")).to_be_visible()


def test_by_keyboard(come: Come) -> None:
    page = come()
    page.keyboard.press("b")
    expect(page.get_by_test_id("library")).to_be_visible()
    expect(page.get_by_test_id("library-search")).to_be_focused()
    page.keyboard.type("b")  # a letter, not the key
    expect(page.get_by_test_id("library-search")).to_have_value("b")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("library")).to_have_count(0)


def test_choosing_a_direction_says_what_somebody_said_of_it(come: Come) -> None:
    ada, bob = come("ada said"), come("bob saw")
    save(ada, "said of", "the plural of things", component=0)
    ada.get_by_test_id("description-input").fill("another word for it")
    ada.get_by_test_id("description-add").click()
    expect(ada.get_by_test_id("description")).to_have_count(2)
    choose(bob, direction="logit")
    expect(bob.get_by_test_id("direction-card")).to_contain_text("logit")
    expect(bob.get_by_test_id("described")).to_have_count(0)
    choose(bob, direction=0)
    told = bob.get_by_test_id("described")
    expect(told).to_contain_text("the plural of things")
    expect(told).to_contain_text("ada said")
    expect(told).to_contain_text("1 more")
    told.click()
    expect(bob.get_by_test_id("one-name")).to_have_text("said of")
    shot(bob, "described")


def test_votes_and_comments_of_others_arrive_while_one_looks(come: Come) -> None:
    ada, bob = come("ada live"), come("bob live")
    save(ada, "live one", "words to vote on", component=4)
    find(bob, "live one")
    bob.get_by_test_id("description").get_by_test_id("vote-up").click()
    expect(ada.get_by_test_id("description").get_by_test_id("vote-up")).to_have_text("1")
    bob.get_by_test_id("comment-input").fill("seen from over here")
    bob.get_by_test_id("comment-add").click()
    expect(ada.get_by_test_id("library-one")).to_contain_text("seen from over here")


def test_a_person_has_a_page_and_is_seen_to_be_here(come: Come) -> None:
    ada, bob = come("ada here"), come("bob here")
    save(ada, "one of ada's", "her words", component=2)
    find(bob, "one of ada's")
    bob.get_by_test_id("one-owner").click()
    expect(bob.get_by_test_id("person-name")).to_have_text("ada here")
    expect(bob.get_by_test_id("person")).to_contain_text("1 direction · 1 description")
    expect(bob.get_by_test_id("library-entry")).to_have_count(1)
    bob.get_by_test_id("present").click()
    here = bob.get_by_role("listitem").filter(has_text="bob here")
    expect(here).to_contain_text("bob here (you)")
    shot(bob, "present")
    bob.keyboard.press("Escape")
    bob.get_by_test_id("person-back").click()
    expect(bob.get_by_test_id("person")).to_have_count(0)
