"""What the tests of the library ask over HTTP again and again."""

from typing import Any

import httpx

OCTETS = {"content-type": "application/octet-stream"}

PC = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 0.6, "2": -0.8}}


def ask(http: httpx.Client, query: str, **args: Any) -> httpx.Response:
    return http.post(f"api/queries/{query}", json=args)


def do(http: httpx.Client, intent: str, **args: Any) -> httpx.Response:
    return http.post(f"api/intents/{intent}", json=args)


def send(http: httpx.Client, intent: str, data: bytes, **args: str) -> httpx.Response:
    """An intent with a file."""
    return http.post(f"api/intents/{intent}", content=data, headers=OCTETS, params=args)


def save(http: httpx.Client, name: str, **more: object) -> dict:
    answer = http.post("api/library/directions", json={"direction": PC, "name": name} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]
