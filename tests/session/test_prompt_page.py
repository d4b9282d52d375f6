"""Pages of prompts: what is drawn, what is kept of it, and who goes first."""

import threading
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope.directions import Dictionary
from residscope.errors import EmptyCorpus, NotFound, PageTooLarge, PromptTooLong, UnknownLayer
from residscope.session import Session, compute
from residscope.session.read import prompt_page
from residscope.session.read.prompt_page import Page, record
from residscope.world.loaded import Loaded
from residscope.world.session_world import SessionWorld
from residscope.world.values import Prompt
from session import worlds
from session.asked import Gate, declared, jobs, start

TEXT = [
    "A cat sat on a mat. It saw a dog run by! Was it the grey dog? It was not the grey dog at all.",
    "Rain fell on the hill and\nthe river rose by noon. Nobody had seen such water in years. The bridge stood.",
    "Short.",
]
OWN = "a small prompt"


@pytest.fixture
def loaded() -> Loaded:
    return Loaded.of(worlds.model())


def never(done: int) -> None:
    """Nobody else wants the model."""


def draw(loaded: Loaded, source: list[str], *, n: int, length: int, seed: int) -> tuple[Prompt, ...]:
    return tuple(
        map(loaded.prompt, rs.draw_prompts(loaded.model, source, n, length=length, seed=seed).texts or ()),
    )


def ask(session: Session, **more: Any) -> dict[str, Any]:
    """The job that draws."""
    text = {"kind": "typed", "name": "t.txt", "text": "\n\n".join(TEXT)}
    return session.intent("draw_prompts", {"text": text, "n": 3, "length": 12, **more})


def make(session: Session, own: tuple[str, ...] = (OWN,), **more: Any) -> dict[str, Any]:
    """A page, its prompts drawn."""
    told = ask(session, **more)
    assert session.wait(60)
    return session.query("prompts", {"own": [*own], "drawn": told["job"]})


def test_a_seed_draws_the_same_windows_and_another_seed_others(loaded: Loaded) -> None:
    first, again, other = (draw(loaded, TEXT, n=4, length=12, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_windows_have_the_length_asked_for_and_begin_where_sentences_do(loaded: Loaded) -> None:
    for prompt in draw(loaded, TEXT, n=5, length=12, seed=0):
        assert len(prompt.tokens) == 12
        (text,) = (text for text in TEXT if prompt.text in text)
        at = text.index(prompt.text)
        assert at == 0 or text[at - 2 : at] in (". ", "! ", "? ")
        assert loaded.prompt(prompt.text).ids == prompt.ids


def test_no_window_overlaps_another(loaded: Loaded) -> None:
    prompts = draw(loaded, TEXT, n=30, length=20, seed=3)
    for text in TEXT:
        spans = sorted((text.index(p.text), len(p.text)) for p in prompts if p.text in text)
        assert all(a + length <= b for (a, length), (b, _) in pairwise(spans))


def test_a_short_text_gives_shorter_prompts_and_an_empty_one_is_refused(loaded: Loaded) -> None:
    assert [prompt.text for prompt in draw(loaded, ["Hello.", "a"], n=5, length=40, seed=0)] == ["Hello."]
    with pytest.raises(EmptyCorpus, match="4 tokens"):
        draw(loaded, ["a", " \n "], n=5, length=40, seed=0)


def test_lines_count_where_there_are_no_sentences(loaded: Loaded) -> None:
    found = {p.text for p in draw(loaded, ["milk and tea\nbread and jam\nsalt and oil"], n=3, length=8, seed=0)}
    assert found == {"milk and", "bread an", "salt and"}


def test_a_batch_records_what_each_prompt_gives_alone(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_page, "BATCH_TOKENS", 30)
    prompts = [loaded.prompt(text) for text in ("abc", "a longer one", "xyz", "the same len", OWN)]
    turns: list[int] = []
    found = record(loaded, prompts, turn=turns.append)
    assert turns == [0, 2, 4], "two of three tokens, two of twelve, and one"
    for prompt, recorded in zip(prompts, found, strict=True):
        alone = compute.forward(SessionWorld(loaded), prompt, (), loaded.model)
        assert recorded.prompt is prompt
        torch.testing.assert_close(recorded.rows, alone.rows, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(recorded.next_p, alone.next.all()[1][:, :3], rtol=1e-4, atol=1e-5)


def test_coordinates_and_logits_are_those_of_the_run(loaded: Loaded) -> None:
    prompts = [loaded.prompt(text) for text in (OWN, "xyz")]
    page = Page("p1", record(loaded, prompts, turn=never), ())
    row, site = 2, "pca@resid_post.0"
    runs = [compute.forward(SessionWorld(loaded), prompt, (), loaded.model) for prompt in prompts]
    known = loaded.dictionary(site)
    whole = [load(compute.coef(run, loaded, known)) for run in runs]
    found = load(prompt_page.coef(page, loaded, known, row, turn=never))
    torch.testing.assert_close(found["coef"], torch.cat([x["coef"][row] for x in whole]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found["norm"], torch.cat([x.rows[row].float().norm(dim=-1) for x in runs]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(found["offset"], whole[0]["offset"][row])
    both = [load(compute.logits(run, loaded, 5, 9)) for run in runs]
    found = load(prompt_page.logits(page, loaded, positive=5, negative=9, row=row))
    for name in ("value", "offset"):
        torch.testing.assert_close(found[name], torch.cat([x[name][row] for x in both]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(
        found["value"], load(prompt_page.logits(page, loaded, positive=5, negative=9, row=1))["value"]
    )
    with pytest.raises(UnknownLayer, match="row 99"):
        prompt_page.coef(page, loaded, known, 99, turn=never)


@pytest.mark.parametrize(
    ("site", "head", "space"), [("z.1", 1, "raw"), ("mlp_post.0", None, "raw"), ("resid_post.1", None, "lens")]
)
def test_other_places_and_spaces(loaded: Loaded, site: str, head: int | None, space: str) -> None:
    d = loaded.model.sites.width(loaded.model.sites.parse(site))
    read = torch.randn(2, d, generator=torch.Generator().manual_seed(5))
    offset = torch.tensor([0.5, -1.0]) if space == "lens" else None
    known = Dictionary("made up", site, read, read, torch.zeros(d), head=head, space=space, offset=offset)
    prompts = [loaded.prompt(text) for text in (OWN, "xyz", "abc")]
    page, row = Page("p1", record(loaded, prompts, turn=never), ()), 1
    found = load(prompt_page.coef(page, loaded, known, row, turn=never))
    parts = []
    for prompt in prompts:
        held = compute.forward(SessionWorld(loaded), prompt, (), loaded.model)
        if space != "lens":
            held = compute.elsewhere(SessionWorld(loaded), prompt, (), loaded.model, site=site.split(".")[0], head=head)
        parts.append(load(compute.coef(held, loaded, known)))
    for name in found.keys() - {"offset", "norm"}:
        torch.testing.assert_close(found[name], torch.cat([x[name][row] for x in parts]), rtol=1e-4, atol=1e-4)
    assert ("sigma" in found) == (space == "lens")
    assert len(page.beside) == (space != "lens"), "what is not of the stream is kept, for the next dictionary there"


def test_ones_own_prompt_costs_no_run_and_neither_do_prompts_drawn_before() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        session.intent("set_prompt", {"text": OWN})
        assert session.wait(60)
        before = slow.runs
        answer = session.query("prompts", {"own": [OWN]})
        assert [p["own"] for p in answer["prompts"]] == [True]
        assert slow.runs == before
        first = make(session)
        assert [p["own"] for p in first["prompts"]] == [True, False, False, False]
        assert slow.runs > before
        session.intent("set_prompt", {"text": "another"})
        assert session.wait(60)
        before = slow.runs
        assert ask(session)["ready"]
        second = make(session, ("another", OWN))
        assert slow.runs == before
        assert [p["text"] for p in second["prompts"][2:]] == [p["text"] for p in first["prompts"][1:]]
        assert make(session, seed=9)["prompts"][1:] != first["prompts"][1:]
        assert slow.runs > before, "other prompts do cost one"


def test_every_token_says_what_comes_next(one: Session) -> None:
    prompt = make(one)["prompts"][0]
    assert len(prompt["tokens"]) == len(prompt["next"]) == len(OWN)
    assert "".join(token["text"] for token in prompt["tokens"]) == OWN
    for likeliest in prompt["next"]:
        p = [entry["p"] for entry in likeliest]
        assert len(p) == 3
        assert p == sorted(p, reverse=True)


def row(session: Session, page: str) -> Any:
    return session.query("prompts_coef", {"page": page, "dictionary": "pca@resid_post.0", "row": 0})


def test_the_latest_three_pages_are_held(one: Session) -> None:
    ids = [make(one, seed=seed)["id"] for seed in range(4)]
    for id in ids[1:]:
        assert row(one, id)
    with pytest.raises(NotFound, match="latest 3"):
        row(one, ids[0])
    assert [ask(one, seed=seed)["ready"] for seed in (1, 2, 3, 0)] == [True, True, True, False]
    assert one.wait(60)


def test_a_page_of_another_model_is_not_held_and_neither_is_what_was_drawn(one: Session) -> None:
    id, drawn = make(one)["id"], ask(one)["job"]
    one.load(worlds.model("gpt2"))
    assert one.wait(60)
    with pytest.raises(NotFound):
        one.query("prompts_logits", {"page": id, "positive": 5, "negative": 9, "row": 0})
    with pytest.raises(NotFound, match="draw them again"):
        one.query("prompts", {"drawn": drawn})
    assert not ask(one)["ready"]
    assert one.wait(60)


def test_memory_is_bounded(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = one.state.model
    assert loaded is not None
    each = prompt_page.PAGE_BYTES // prompt_page.room(loaded)
    monkeypatch.setattr(prompt_page, "PAGE_BYTES", 60 * each)
    job = ask(one, n=4, length=20)["job"]
    assert one.wait(60)
    error = jobs(one)[job]["error"]
    assert (error["type"], "at most 60 tokens" in error["message"]) == ("PageTooLarge", True)
    answer = make(one, (OWN, "a second prompt", "x" * 30), n=1, length=8)
    assert [p["text"] for p in answer["prompts"] if p["own"]] == [OWN, "a second prompt"], "the oldest goes"
    with pytest.raises(PageTooLarge, match="at most 60 tokens"):
        make(one, ("x" * 40,), n=2, length=20)
    with pytest.raises(PromptTooLong, match="context"):
        make(one, ("x" * 65,))


def test_what_is_drawn_is_on_no_shelf_and_its_line_goes_with_the_next(one: Session) -> None:
    first = ask(one)["job"]
    assert one.wait(60)
    assert one.snapshot()[1]["items"]["items"] == []
    told = jobs(one)[first]
    assert (told["phase"], told["items"], told["note"]) == ("done", [], "3 prompts, on the Prompts tab.")
    second = ask(one, seed=7)["job"]
    assert one.wait(60)
    assert [*jobs(one)] == [second]
    assert one.query("prompts", {"drawn": first})["prompts"], "its line is gone, what it drew is not"


def test_a_drawing_can_be_read_from_its_first_prompts_on() -> None:
    with worlds.session(worlds.model()) as session:
        sizes: list[int] = []
        pages: list[list[Any]] = []

        def heard(_: int, patch: dict[str, Any]) -> None:
            for job in patch.get("jobs", ()):
                if job["phase"] != "done" and job["revision"] > len(pages):
                    pages.append(session.query("prompts", {"drawn": job["id"]})["prompts"])
                    sizes.append(job["revision"])

        _, _, stop = session.subscribe(heard)
        told = ask(session, n=9)
        assert session.wait(60)
        stop()
        whole = session.query("prompts", {"drawn": told["job"]})["prompts"]
        assert [len(page) for page in pages] == [2, 6]
        assert sizes == [1, 2]
        assert len(whole) == 9
        for page in pages:
            assert page == whole[: len(page)], "no row changes when others come"


def test_what_was_drawn_in_part_is_drawn_again() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:

        def heard(_: int, patch: dict[str, Any]) -> None:
            for job in patch.get("jobs", ()):
                if job["revision"] == 1 and job["phase"] == "running":
                    threading.Thread(target=session.intent, args=("cancel", {"job": job["id"]})).start()
                    slow.gate.clear()

        _, _, stop = session.subscribe(heard)
        first = ask(session, n=9)
        time.sleep(0.5)
        stop()
        slow.gate.set()
        assert session.wait(60)
        assert jobs(session)[first["job"]]["phase"] == "cancelled"
        assert len(session.query("prompts", {"drawn": first["job"]})["prompts"]) in (2, 6), "what is there stays"
        again = ask(session, n=9)
        assert not again["ready"]
        assert session.wait(60)
        assert len(session.query("prompts", {"drawn": again["job"]})["prompts"]) == 9


def test_a_newer_page_stops_the_one_before() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        first = ask(session)["job"]
        assert slow.entered.wait(30)
        second = ask(session, seed=5)["job"]
        slow.gate.set()
        assert session.wait(60)
        assert [jobs(session)[id]["phase"] for id in (first, second)] == ["cancelled", "done"]
        with pytest.raises(NotFound, match="draw them again"):
            session.query("prompts", {"drawn": first})
        assert len(session.query("prompts", {"drawn": second})["prompts"]) == 3


def test_a_text_without_prompts_fails_in_the_job_s_words(one: Session) -> None:
    told = one.intent("draw_prompts", {"text": {"kind": "typed", "name": "t.txt", "text": " a \n\n b"}, "n": 2})
    assert one.wait(60)
    assert jobs(one)[told["job"]]["error"]["type"] == EmptyCorpus.__name__
    with pytest.raises(NotFound):
        one.query("prompts", {"drawn": told["job"]})


def test_the_live_run_goes_first() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        session.intent("set_prompt", {"text": "the live one"})
        assert slow.entered.wait(30)
        before = slow.runs
        told = ask(session)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(session.query("prompts", {"own": ["not held"]})))
        thread.start()
        time.sleep(0.2)
        assert slow.runs == before, "job and query wait for the run"
        slow.gate.set()
        assert session.wait(60)
        thread.join(30)
        assert slow.runs > before
        assert len(session.query("prompts", {"drawn": told["job"]})["prompts"]) == 3
        assert len(answers[0]["prompts"]) == 1


def test_drawing_waits_for_the_job_before_it_and_ones_own_prompts_do_not(one: Session) -> None:
    gate = Gate()
    with declared(stand=gate.stand):
        start(one, "stand")
        assert gate.entered.wait(30)
        job = ask(one)["job"]
        assert [p["text"] for p in one.query("prompts", {"own": [OWN]})["prompts"]] == [OWN]
        assert jobs(one)[job]["phase"] == "waiting"
        gate.leave.set()
        assert one.wait(60)
        assert jobs(one)[job]["phase"] == "done"
