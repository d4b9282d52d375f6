"""Pages of prompts over a real port: drawn by a job, read by queries."""

from typing import Any

import httpx
import pytest
from safetensors.torch import load

from residscope.server import Server
from server.test_wire import refused

TYPED = {
    "kind": "typed",
    "name": "mine.txt",
    "text": "The cat sat here. The dog ran there.\n\nNo one saw the two of them.",
}


def draw(http: httpx.Client, **more: Any) -> httpx.Response:
    return http.post("/api/intents/draw_prompts", json={"text": TYPED, "n": 2, "seed": 0, "length": 10, **more})


def query(http: httpx.Client, name: str, **args: Any) -> httpx.Response:
    return http.post(f"/api/queries/{name}", json=args)


def test_a_page_and_its_numbers(http: httpx.Client, server: Server) -> None:
    job = draw(http).json()["value"]["job"]
    assert server.session.wait(60)
    page = query(http, "prompts", own=["mine"], drawn=job).json()
    assert [(p["own"], len(p["tokens"])) for p in page["prompts"]] == [(True, 4), (False, 10), (False, 10)]
    assert all(p["text"] in TYPED["text"] for p in page["prompts"][1:])
    site = http.get("/api/state").json()["state"]["model"]["dictionaries"][0]["id"]
    answer = query(http, "prompts_coef", page=page["id"], dictionary=site, row=1)
    assert answer.headers["content-type"] == "application/octet-stream"
    found = load(answer.content)
    assert [tuple(found[name].shape) for name in ("coef", "offset", "norm")] == [(24, 3), (3,), (24,)]
    found = load(query(http, "prompts_logits", page=page["id"], positive=5, negative=6, row=1).content)
    assert [tuple(found[name].shape) for name in ("value", "offset", "norm")] == [(24,)] * 3


def test_ones_own_prompts_are_ones_one_may_ask_for_alone(http: httpx.Client) -> None:
    assert [p["own"] for p in query(http, "prompts", own=["mine"]).json()["prompts"]] == [True]
    refused(query(http, "prompts", own=[]), 404, "NotFound")
    refused(query(http, "prompts", own=["x" * 65]), 422, "PromptTooLong")
    refused(query(http, "prompts", own=[""]), 400, "MalformedJSON")
    refused(query(http, "prompts", own=["x"] * 51), 400, "MalformedJSON")
    refused(query(http, "prompts", drawn="j999"), 404, "NotFound")


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("too many", {"n": 101}, 400, "MalformedJSON"),
    ("none", {"n": 0}, 400, "MalformedJSON"),
    ("too short", {"length": 2}, 400, "MalformedJSON"),
    ("no such text", {"text": {"kind": "builtin", "name": "no-such"}}, 422, "CorpusError"),
    ("unknown field", {"banana": 1}, 400, "MalformedJSON"),
]


@pytest.mark.parametrize(("more", "status", "type"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_refused(http: httpx.Client, more: dict[str, Any], status: int, type: str) -> None:
    refused(draw(http, **more), status, type)


def test_a_text_with_nothing_in_it_is_refused_by_the_job(http: httpx.Client, server: Server) -> None:
    job = draw(http, text={"kind": "typed", "name": "a.txt", "text": "  \n\n "}).json()["value"]["job"]
    assert server.session.wait(60)
    told = http.get("/api/state").json()["state"]["jobs"][-1]
    assert (told["id"], told["phase"], told["error"]["type"]) == (job, "failed", "EmptyCorpus")


def test_pages_that_are_not_held_and_rows_that_are_not_there(http: httpx.Client) -> None:
    refused(query(http, "prompts_coef", page="p999", dictionary="embed", row=0), 404, "NotFound")
    id = query(http, "prompts", own=["mine"]).json()["id"]
    refused(query(http, "prompts_logits", page=id, positive=5, negative=6, row=99), 422, "UnknownLayer")
    refused(query(http, "prompts_logits", page=id, positive=5, negative=10**6, row=0), 422, "UnknownToken")
    refused(query(http, "prompts_coef", page=id, dictionary="pca@nowhere", row=0), 404, "NotFound")
    refused(query(http, "prompts_coef", page=id, row=0), 400, "MalformedJSON")


def test_a_stranger_gets_nothing(stranger: httpx.Client) -> None:
    refused(draw(stranger), 401, "NotAllowed")
    refused(query(stranger, "prompts", own=["mine"]), 401, "NotAllowed")
