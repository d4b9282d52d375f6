"""`api/prompts` over a real port."""

from typing import Any

import httpx
import pytest
from safetensors.torch import load

from server.test_wire import refused

TYPED = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "The cat sat here. The dog ran there.\n\nNo one saw the two of them.",
}


def ask(http: httpx.Client, **more: Any) -> httpx.Response:
    return http.post("/api/prompts", json={"text": TYPED, "n": 2, "seed": 0, "length": 10, "own": ["mine"], **more})


def test_a_page_and_its_numbers(http: httpx.Client) -> None:
    page = ask(http).json()
    assert [(p["own"], len(p["tokens"])) for p in page["prompts"]] == [(True, 4), (False, 10), (False, 10)]
    assert all(p["text"] in TYPED["text"] for p in page["prompts"][1:])
    site = http.get("/api/state").json()["state"]["model"]["dictionaries"][0]["id"]
    answer = http.get(f"/api/prompts/{page['id']}/coef", params={"dictionary": site, "row": 1})
    assert answer.headers["content-type"] == "application/octet-stream"
    found = load(answer.content)
    assert [tuple(found[name].shape) for name in ("coef", "offset", "norm")] == [(24, 3), (3,), (24,)]
    query = {"positive": 5, "negative": 6, "row": 1}
    found = load(http.get(f"/api/prompts/{page['id']}/logits", params=query).content)
    assert [tuple(found[name].shape) for name in ("value", "offset", "norm")] == [(24,)] * 3


def test_no_random_prompts_are_one_may_ask_for_alone(http: httpx.Client) -> None:
    assert [p["own"] for p in ask(http, n=0).json()["prompts"]] == [True]
    refused(ask(http, n=0, own=[]), 404, "NotFound")


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("too many", {"n": 101}, 400, "MalformedJSON"),
    ("too short", {"length": 2}, 400, "MalformedJSON"),
    ("no such text", {"text": {"kind": "builtin", "name": "no-such"}}, 422, "CorpusError"),
    ("no text", {"text": {"kind": "typed", "name": "a.txt", "text": "  \n\n "}}, 422, "EmptyCorpus"),
    ("own prompt over the context", {"own": ["x" * 65]}, 422, "PromptTooLong"),
    ("empty own prompt", {"own": [""]}, 400, "MalformedJSON"),
    ("unknown field", {"banana": 1}, 400, "MalformedJSON"),
]


@pytest.mark.parametrize(("more", "status", "type"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_refused(http: httpx.Client, more: dict[str, Any], status: int, type: str) -> None:
    refused(ask(http, **more), status, type)


def test_pages_that_are_not_held_and_rows_that_are_not_there(http: httpx.Client) -> None:
    refused(http.get("/api/prompts/p999/coef", params={"dictionary": "embed", "row": 0}), 404, "NotFound")
    id = ask(http).json()["id"]
    query = {"positive": 5, "negative": 6}
    refused(http.get(f"/api/prompts/{id}/logits", params={**query, "row": 99}), 422, "UnknownLayer")
    refused(
        http.get(f"/api/prompts/{id}/logits", params={"positive": 5, "negative": 10**6, "row": 0}), 422, "UnknownToken"
    )
    refused(http.get(f"/api/prompts/{id}/coef", params={"dictionary": "pca@nowhere", "row": 0}), 404, "NotFound")


def test_a_stranger_gets_nothing(stranger: httpx.Client) -> None:
    refused(ask(stranger), 401, "NotAllowed")
