"""What schemathesis draws from a description of the page's HTTP as OpenAPI: what fits the shapes, and what is made not to.

The description is made from the same shapes as the page's own types. A fault is an answer of 500 or more, or a line in the log
that tells of a mistake of ours.
"""

import random
import re
import time
import warnings
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis import GenerationMode

from hostile.hunt import Tried
from residscope.server.routes import NAMES

NAME = "the page's HTTP, by schemathesis"
REF = "#/definitions/"
ROUNDS = 20
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def openapi(definitions: dict[str, Any], asked: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """Every intent and query with the shape of its arguments, and the library's own addresses."""
    paths: dict[str, Any] = {}
    for kind, name, shape in asked:
        folder = "intents" if kind == "intent" else "queries"
        paths[f"/api/{folder}/{name}"] = {"post": _operation(_body(shape))}
    for method, path, _ in NAMES:
        parts = re.findall(r"{(\w+)}", path)
        given = [{"name": part, "in": "path", "required": True, "schema": {"type": "string"}} for part in parts]
        asked_for = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("text", "limit", "after")]
        body = {} if method in ("GET", "DELETE") else _body({"type": "object"})
        operation = _operation(body) | {"parameters": [*given, *(asked_for if method == "GET" else ())]}
        paths.setdefault(f"/api/library/{path}", {})[method.lower()] = operation
    found = {
        "openapi": "3.1.0",
        "info": {"title": "Residscope", "version": "1"},
        "paths": paths,
        "components": {"schemas": definitions},
    }
    moved: dict[str, Any] = _moved(found)
    return moved


def _operation(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "responses": {"200": {"description": "the answer"}}}


def _body(shape: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": shape}}}}


def _moved(part: Any) -> Any:
    """With references to where OpenAPI has its parts."""
    if isinstance(part, dict):
        return {key: _moved(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_moved(value) for value in part]
    return part.replace(REF, "#/components/schemas/") if isinstance(part, str) and part.startswith(REF) else part


def over_schema(many: int, seed: str) -> Tried:
    """So many requests, spread over the operations, half of each of what fits and half of what does not."""
    from hostile.wire import asked, note, served

    tried = Tried(NAME, seed)
    operations = [found.ok() for found in schemathesis.openapi.from_dict(openapi(*asked())).get_all_operations()]
    turns = [(operation, mode) for operation in operations for mode in MODES]
    random.Random(seed).shuffle(turns)
    with served() as (server, listening), requests.Session() as link:
        link.headers["authorization"] = f"Bearer {server.token}"
        base = f"http://127.0.0.1:{server.port}"

        def send(case: Any) -> None:
            if tried.random >= many:
                return
            sent, began = case.as_transport_kwargs(base_url=base), time.monotonic()
            sent["headers"] = {**sent["headers"], **link.headers}
            status, said = _answer(link, sent)
            bad = [f"{status} {said[:200]!r}"] if status >= 500 or status == 0 else []
            how = "raw" if bad else "read" if status < 400 else "refused"
            note(tried, f"{seed} {sent['method']} {sent['url'][:80]} {str(sent)[:200]}", [how], bad, began, listening)

        for round in range(ROUNDS):  # an operation without arguments has one case only: others take what it leaves
            for number, (operation, mode) in enumerate(turns):
                if each := -(-(many - tried.random) // (len(turns) - number)):
                    _draw(operation, mode, send, each, f"{seed} {round} {number}")
        assert link.get(f"{base}/api/state", timeout=60).status_code == 200
    return tried


def _answer(link: requests.Session, sent: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body; 0 where the connection ends without an answer. What no client can send is no request."""
    try:
        answer = link.request(**sent, timeout=60)
        return answer.status_code, answer.content
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
        return 400, b""
    except requests.exceptions.RequestException as error:
        return 0, repr(error).encode()


def _draw(operation: Any, mode: GenerationMode, send: Any, most: int, seed: str) -> None:
    """Up to so many cases of one operation; none of a kind that it has not."""

    @seeded(seed)
    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def drawn(case: Any) -> None:
        send(case)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            drawn()
        except Exception as error:
            if type(error).__name__ not in ("Unsatisfiable", "SkipTest", "Skipped", "InvalidArgument"):
                raise
