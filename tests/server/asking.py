"""What the tests of the library ask over HTTP again and again."""

import httpx

PC = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 0.6, "2": -0.8}}


def save(http: httpx.Client, name: str, **more: object) -> dict:
    answer = http.post("api/library/directions", json={"direction": PC, "name": name} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]
