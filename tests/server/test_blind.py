"""A blind test over HTTP: nothing of the values before the guesses are in, one score a person, and chance scores nothing."""

import random
from collections.abc import Callable
from statistics import fmean

import httpx
import pytest

from residscope.methods._lib.blind import score
from residscope.server import Server
from residscope.store import Library
from server.asking import PC, refused, save
from store.things import MODEL, direction


@pytest.fixture
def described(person: Callable[..., httpx.Client], request: pytest.FixtureRequest) -> dict:
    entry = save(person("ada"), request.node.name[:70], description="high on capital letters")
    return person().get(f"api/library/directions/{entry['id']}").json()["descriptions"][0]


def begin(http: httpx.Client, described: dict) -> dict:
    answer = http.post(f"api/library/descriptions/{described['id']}/blind")
    assert answer.status_code == 200, answer.text
    return answer.json()


def truth(with_library: Server, test: dict) -> list[float]:
    """What the direction says at each marked token, from the tokens alone."""
    found, model = with_library.session.resolve(PC)
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
    result = bob.post(f"api/library/blind/{test['test']}", json={"guesses": as_guesses(values)}).json()
    assert result["values"] == pytest.approx(values, abs=1e-4)
    assert (result["score"], result["auc"], result["n"], result["own"]) == (1, 1, len(values), False)
    assert result["chance"][0] < 0 < result["chance"][1] < 0.75
    blind = {"people": 1, "mean": 1.0, "interval": result["interval"], "author": None, "mine": 1.0}
    assert result["description"]["blind"] == blind
    again = bob.post(f"api/library/blind/{test['test']}", json={"guesses": as_guesses(values)})
    assert refused(again) == (404, "NotFound")
    shown = person().get(f"api/library/directions/{described['direction']}").json()["descriptions"][0]
    assert shown["blind"] == blind | {"mine": None}


def test_shuffled_guesses_score_near_nothing_and_a_later_test_replaces_the_first(
    person, with_library: Server, described: dict
) -> None:
    bob, deal, scores = person("bob the shuffler"), random.Random(0), []
    for _ in range(5):
        test = begin(bob, described)
        guesses = as_guesses(truth(with_library, test))
        deal.shuffle(guesses)
        result = bob.post(f"api/library/blind/{test['test']}", json={"guesses": guesses}).json()
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
    result = ada.post(f"api/library/blind/{test['test']}", json={"guesses": guesses}).json()
    assert result["own"] is True
    blind = result["description"]["blind"]
    assert (blind["people"], blind["mean"], blind["author"]) == (0, None, result["score"])


def test_what_is_refused(person, library: Library, described: dict) -> None:
    bob, eve, nobody = person("bob"), person("eve"), person()
    path = f"api/library/descriptions/{described['id']}/blind"
    assert refused(nobody.post(path)) == (403, "NoUser")
    assert refused(bob.post("api/library/descriptions/none/blind")) == (404, "NotFound")
    test = begin(bob, described)
    answer, n = f"api/library/blind/{test['test']}", len(test["items"])
    right = [i / n for i in range(n)]
    assert refused(eve.post(answer, json={"guesses": right})) == (404, "NotFound")
    for wrong in ([], right[1:], [2.0, *right[1:]], ["a"] * n, None):
        assert refused(bob.post(answer, json={"guesses": wrong})) == (400, "MalformedJSON")
    assert refused(bob.post(answer, json={"guesses": [0.0] * n})) == (422, "NoOrder")
    assert bob.post(answer, json={"guesses": right}).status_code == 200  # none of that ended it
    elsewhere = library.save(direction(), model=MODEL, user="ada", name="of another model", description="d")
    there = library.get(elsewhere.id).descriptions[0].id
    assert refused(bob.post(f"api/library/descriptions/{there}/blind")) == (422, "WrongModel")


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
