"""A blind test over HTTP: nothing of the values before the guesses are in, one score a person, and chance scores nothing."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from statistics import fmean

import httpx
import pytest

from residscope.errors import TooFewContexts
from residscope.methods._lib.blind import score
from residscope.server import Server, blind
from residscope.store import Library
from server.asking import PC, ask, do, refused, save
from session.asked import Gate, declared, start
from store.things import MODEL, direction


@pytest.fixture
def described(person: Callable[..., httpx.Client], request: pytest.FixtureRequest) -> dict:
    entry = save(person("ada"), request.node.name[:70], description="high on capital letters")
    return person().get(f"api/library/directions/{entry['id']}").json()["descriptions"][0]


def begin(http: httpx.Client, described: dict) -> dict:
    """A test, once its contexts are drawn."""
    answer = do(http, "library_blind", id=described["id"])
    assert answer.status_code == 200, answer.text
    begun = answer.json()["value"]
    while told(http, begun["job"])["phase"] in ("waiting", "running"):
        time.sleep(0.02)
    return ask(http, "library_blind_test", test=begun["test"]).json()


def told(http: httpx.Client, job: str) -> dict:
    return next(each for each in http.get("api/state").json()["state"]["jobs"] if each["id"] == job)


def guess(http: httpx.Client, test: dict, guesses: object) -> httpx.Response:
    return do(http, "library_guess", test=test["test"], guesses=guesses)


def truth(with_library: Server, test: dict) -> list[float]:
    """What the direction says at each marked token, from the tokens alone."""
    found, model = with_library.session.reads.resolve(PC)
    values = []
    for item in test["items"]:
        ids = model.tokens("".join(item["tokens"]))[0].tolist()
        x = model.run([ids], [found.site])[found.site][0, item["pos"] + int(model.bos)]
        values.append(float(found.project(x)))
    return values


def as_guesses(values: list[float]) -> list[float]:
    most = max(map(abs, values))
    return [value / most for value in values]


def test_guesses_are_scored_once_and_the_score_stays_with_the_description(
    person, with_library: Server, described: dict
) -> None:
    bob = person("bob")
    test = begin(bob, described)
    assert test.keys() == {"test", "description", "direction", "text", "corpus", "items", "scale"}
    assert 12 <= len(test["items"]) <= 20
    assert all(item.keys() == {"tokens", "pos"} for item in test["items"])
    assert all(item["pos"] < len(item["tokens"]) == 16 for item in test["items"])
    values = truth(with_library, test)
    result = guess(bob, test, as_guesses(values)).json()["value"]
    assert result["values"] == pytest.approx(values, abs=1e-4)
    assert (result["score"], result["auc"], result["n"], result["own"]) == (1, 1, len(values), False)
    assert result["chance"][0] < 0 < result["chance"][1] < 0.75
    tested = {"people": 1, "mean": 1.0, "interval": result["interval"], "author": None, "mine": 1.0}
    assert result["description"]["blind"] == tested
    again = guess(bob, test, as_guesses(values))
    assert refused(again) == (404, "NotFound")
    shown = person().get(f"api/library/directions/{described['direction']}").json()["descriptions"][0]
    assert shown["blind"] == tested | {"mine": None}


def test_shuffled_guesses_score_near_nothing_and_a_later_test_replaces_the_first(
    person, with_library: Server, described: dict
) -> None:
    bob, deal, scores = person("bob the shuffler"), random.Random(0), []
    for _ in range(5):
        test = begin(bob, described)
        guesses = as_guesses(truth(with_library, test))
        deal.shuffle(guesses)
        result = guess(bob, test, guesses).json()["value"]
        assert result["score"] == score(guesses, result["values"]).rho
        scores.append(result["score"])
    assert abs(fmean(scores)) < 0.45  # five of sd 0.26
    assert max(scores) < 0.9
    assert result["description"]["blind"]["mine"] == scores[-1]
    assert result["description"]["blind"]["people"] == 1


def test_the_author_s_own_test_is_marked(person, described: dict) -> None:
    ada = person("ada")
    test = begin(ada, described)
    guesses = [(-1) ** i * i / 100 for i in range(len(test["items"]))]
    result = guess(ada, test, guesses).json()["value"]
    assert result["own"] is True
    tested = result["description"]["blind"]
    assert (tested["people"], tested["mean"], tested["author"]) == (0, None, result["score"])


def test_what_is_refused(person, library: Library, described: dict) -> None:
    bob, eve, nobody = person("bob"), person("eve"), person()
    assert refused(do(nobody, "library_blind", id=described["id"])) == (403, "NoUser")
    assert refused(do(bob, "library_blind", id="none")) == (404, "NotFound")
    test = begin(bob, described)
    n = len(test["items"])
    right = [i / n for i in range(n)]
    assert refused(guess(eve, test, right)) == (404, "NotFound")
    for other in (eve, nobody):
        assert refused(ask(other, "library_blind_test", test=test["test"])) == (404, "NotFound")
    for wrong in ([], right[1:], [2.0, *right[1:]], ["a"] * n, None):
        assert refused(guess(bob, test, wrong)) == (400, "MalformedJSON")
    assert refused(guess(bob, test, [0.0] * n)) == (422, "NoOrder")
    assert guess(bob, test, right).status_code == 200  # none of that ended it
    elsewhere = library.save(direction(), model=MODEL, user="ada", name="of another model", description="d")
    there = library.get(elsewhere.id).descriptions[0].id
    assert refused(do(bob, "library_blind", id=there)) == (422, "WrongModel")


def test_the_job_tells_nothing_of_the_values(person, with_library: Server, described: dict) -> None:
    """Neither what it was asked, of which the values follow, nor what it gave is to be had, by any query or on the shelf."""
    bob = person("bob")
    begun = do(bob, "library_blind", id=described["id"]).json()["value"]
    assert with_library.session.wait(60)
    job = told(bob, begun["job"])
    assert (job["phase"], job["args"], job["items"], job["error"]) == ("done", {}, [], None)
    shown = ask(bob, "job", job=begun["job"]).json()
    assert not shown.get("views")
    assert not shown.get("table")
    assert shown["revision"] == 0
    items = bob.get("api/state").json()["state"]["items"]["items"]
    assert not [item for item in items if "lind" in item["title"] + item["method"]]


def test_contexts_that_cannot_be_drawn_are_refused_in_the_words_of_the_job(
    person, with_library: Server, described: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*args: object, **more: object) -> None:
        raise TooFewContexts("the text gives too few contexts", received="3", allowed="16 or more")

    gate = Gate()
    bob = person("bob")
    with declared(stand=gate.stand):
        start(with_library.session, "stand")
        assert gate.entered.wait(30)
        monkeypatch.setattr(blind, "CONTEXTS", replace(blind.CONTEXTS, function=wraps(blind.CONTEXTS.function)(few)))
        begun = do(bob, "library_blind", id=described["id"]).json()["value"]
        assert refused(ask(bob, "library_blind_test", test=begun["test"])) == (404, "NotFound")  # not yet
        gate.leave.set()
    assert with_library.session.wait(60)
    assert refused(ask(bob, "library_blind_test", test=begun["test"])) == (422, "TooFewContexts")
    assert told(bob, begun["job"])["error"]["type"] == "TooFewContexts"
    assert refused(guess(bob, begun, [0.5] * 16)) == (400, "MalformedJSON")


def test_what_was_found_here_is_told_from_what_was_found_elsewhere(person, library: Library) -> None:
    ada = person("ada")
    here = save(ada, "found here")
    elsewhere = library.save(direction(3), model=MODEL, user="ada", name="found elsewhere")
    asked = {"text": "found"}
    told = {e["id"]: e["here"] for e in ada.get("api/library/directions", params=asked).json()["entries"]}
    assert (told[here["id"]], told[elsewhere.id]) == (True, False)
    only = ada.get("api/library/directions", params=asked | {"here": True}).json()["entries"]
    assert here["id"] in [e["id"] for e in only]
    assert elsewhere.id not in [e["id"] for e in only]
    assert ada.get(f"api/library/directions/{elsewhere.id}").json()["entry"]["here"] is False
