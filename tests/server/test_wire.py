"""docs/wire.md over a real port: the one error shape for every bad input, and nothing half-done."""

import json
import time
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load, save
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from residscope import errors
from residscope.server import Server
from residscope.server.boxes import Outbox, Told
from server.asking import OCTETS, ask, send

JSON = {"content-type": "application/json"}
FIELDS = {"type", "message", "received", "allowed", "fix"}
STEER = {"kind": "steer", "site": "mlp_post.1", "strength": 1.0, "direction": {"kind": "token", "token": "x"}}


def refused(answer: httpx.Response, status: int, type: str) -> dict[str, Any]:
    body = answer.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == FIELDS
    assert (answer.status_code, error["type"]) == (status, type), error["message"]
    assert hasattr(errors, type)
    for part in ("received", "allowed", "fix"):
        assert error[part] is None or error[part].rstrip(".") in error["message"]
    return error


def mixed(*terms: tuple[str, int, float]) -> dict[str, Any]:
    return {"kind": "mix", "terms": [{"dictionary": id, "index": i, "weight": weight} for id, i, weight in terms]}


def of(direction: dict[str, Any]) -> dict[str, Any]:
    return {"direction": direction}


def fitted(method: str, **args: Any) -> dict[str, Any]:
    return {"method": method, "args": {"corpus": {"kind": "builtin", "name": "python-docs"}, **args}}


BAD: list[tuple[str, str, Any, int, str]] = [
    ("empty prompt", "intents/set_prompt", {"text": ""}, 422, "EmptyPrompt"),
    ("prompt over the context", "intents/set_prompt", {"text": "x" * 65}, 422, "PromptTooLong"),
    ("unknown site", "intents/add_edit", {"edit": {"kind": "ablate", "site": "resid_prey.1"}}, 422, "UnknownSite"),
    ("unknown layer", "intents/add_edit", {"edit": {"kind": "ablate", "site": "z.4"}}, 422, "UnknownLayer"),
    (
        "unknown head",
        "intents/add_edit",
        {"edit": {"kind": "ablate", "site": "z.1", "head": [0, 9]}},
        422,
        "UnknownHead",
    ),
    ("absent site", "intents/add_edit", {"edit": {"kind": "ablate", "site": "router.1"}}, 422, "AbsentSite"),
    ("wrong width", "intents/add_edit", {"edit": STEER}, 422, "WrongWidth"),
    ("edit list", "intents/set_edits", {"edits": [{"kind": "ablate"}]}, 422, "BadEdit"),
    ("no list", "intents/set_edits", {"edits": "all"}, 400, "MalformedJSON"),
    ("no object", "intents/set_prompt", [1], 400, "MalformedJSON"),
    ("unknown intent", "intents/no_such", {}, 404, "NotFound"),
    ("unknown run", "intents/restore_run", {"run": "r9999"}, 404, "NotFound"),
    ("unknown token", "intents/set_metric", {"positive": "two", "negative": "x"}, 422, "UnknownToken"),
    ("direction", "queries/read_direction", {"direction": {"kind": "banana"}}, 400, "MalformedJSON"),
    (
        "direction site",
        "queries/read_direction",
        {"direction": {"kind": "pca", "site": "z.1", "weights": {"0": 1}}},
        422,
        "UnknownSite",
    ),
    (
        "unknown task",
        "intents/start",
        {
            "method": "probe-map",
            "args": {"data": {"kind": "task", "task": "x"}, "site": "embed", "position": "END", "label": "l"},
        },
        422,
        "UnknownTask",
    ),
    (
        "probe of no data",
        "intents/start",
        {"method": "probe-map", "args": {"site": "embed", "position": "END", "label": "l"}},
        422,
        "BadArguments",
    ),
    ("no such table", "queries/read_data", {"data": {"kind": "file", "name": "a.txt", "text": ""}}, 422, "BadTable"),
    (
        "unknown probe",
        "intents/add_edit",
        {"edit": {"kind": "lrqp", "site": "resid_pre.1", "probe": "p", "to": "a", "pos": [0]}},
        404,
        "NotFound",
    ),
    ("saved direction", "queries/read_direction", {"direction": {"kind": "saved", "name": "none"}}, 404, "NotFound"),
    ("mix of nothing", "queries/read_direction", {"direction": {"kind": "mix", "terms": []}}, 400, "MalformedJSON"),
    ("mix without a weight", "queries/read_direction", of(mixed(("pca@resid_post.1", 0, 0.0))), 422, "ZeroDirection"),
    (
        "mix that cancels",
        "queries/read_direction",
        of(mixed(("pca@resid_post.1", 0, 1), ("pca@resid_post.1", 0, -1))),
        422,
        "ZeroDirection",
    ),
    ("mix of no dictionary", "queries/read_direction", of(mixed(("pca@nowhere", 0, 1.0))), 404, "NotFound"),
    ("mix beyond the last", "queries/read_direction", of(mixed(("pca@resid_post.1", 3, 1.0))), 422, "DirectionError"),
    (
        "mix at another width",
        "queries/read_direction",
        of({**mixed(("pca@resid_post.1", 0, 1)), "site": "mlp_post.1"}),
        422,
        "WrongWidth",
    ),
    ("fit of no method", "intents/start", {"args": {"site": "resid_post.1"}}, 400, "MalformedJSON"),
    ("fit of an unknown one", "intents/start", fitted("ica", site="resid_post.1"), 422, "UnknownMethod"),
    ("fit nowhere", "intents/start", fitted("pca", site="nowhere"), 422, "UnknownSite"),
    ("fit of no vectors", "intents/start", fitted("pca", site="pattern.1"), 422, "NoVectors"),
    ("fit of no head", "intents/start", fitted("pca", site="z.1"), 422, "UnknownHead"),
    ("fit with another's option", "intents/start", fitted("svd-stream", clip=True), 422, "BadArguments"),
    (
        "fit on the server's files",
        "intents/start",
        fitted("pca-stream", corpus={"kind": "builtin", "name": "/etc/hosts.txt"}),
        422,
        "CorpusError",
    ),
    ("forget a shipped one", "intents/forget_dictionary", {"id": "pca@resid_post.1"}, 422, "DirectionError"),
    ("forget none", "intents/forget_dictionary", {"id": "pca@nowhere"}, 404, "NotFound"),
]


@pytest.mark.parametrize(("path", "body", "status", "type"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_in_one_shape(http: httpx.Client, path: str, body: Any, status: int, type: str) -> None:
    before = http.get("/api/state").json()
    refused(http.post(f"/api/{path}", json=body), status, type)
    assert http.get("/api/state").json() == before


def test_a_probe_that_is_not_held(http: httpx.Client) -> None:
    refused(ask(http, "probe", name="none"), 404, "NotFound")
    refused(ask(http, "probe_reading", name="none", run="r1", pos=0), 404, "NotFound")
    refused(ask(http, "probe_reading", name="none", run="r1", pos="x"), 400, "MalformedJSON")


def test_an_absent_site_says_why(http: httpx.Client) -> None:
    answer = http.post("/api/intents/add_edit", json={"edit": {"kind": "ablate", "site": "router.1"}})
    absent = {site["name"]: site["absent"] for site in http.get("/api/state").json()["state"]["model"]["sites"]}
    assert absent["router"] in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff", b'{"text": NaN}', b'{"text": "\\ud800"}', b"[" * 50_000, b'{"text": "a"} x']
)
def test_malformed_json(http: httpx.Client, body: bytes) -> None:
    before = http.get("/api/state").json()
    refused(http.post("/api/intents/set_prompt", content=body, headers=JSON), 400, "MalformedJSON")
    if body:
        refused(http.post("/api/queries/read_direction", content=body, headers=JSON), 400, "MalformedJSON")
    assert http.get("/api/state").json() == before


def vector(width: int, **metadata: str) -> bytes:
    return save({"read": torch.arange(1.0, width + 1)}, metadata={"name": "mine", "site": "resid_post.1"} | metadata)


def framed(message: dict[str, Any], data: bytes) -> bytes:
    head = json.dumps(message).encode()
    return len(head).to_bytes(4, "little") + head + data


WHOLE = vector(32)
BAD_TENSORS: list[tuple[str, bytes, int, str]] = [
    ("nothing", b"", 400, "MalformedTensors"),
    ("garbage", b"garbage" * 10, 400, "MalformedTensors"),
    ("cut short", WHOLE[:-3], 400, "MalformedTensors"),
    ("too long", WHOLE + b"1", 400, "MalformedTensors"),
    ("huge header", b"\xff" * 8 + WHOLE[8:], 400, "MalformedTensors"),
    ("a pickle", b"\x80\x04\x95", 400, "MalformedTensors"),
    ("no read", save({"write": torch.ones(32)}, metadata={"name": "mine"}), 400, "MalformedTensors"),
    ("two axes", save({"read": torch.ones(1, 32)}, metadata={"name": "mine"}), 400, "MalformedTensors"),
    ("float64", save({"read": torch.ones(32).double()}, metadata={"name": "mine"}), 400, "MalformedTensors"),
    ("no name", save({"read": torch.ones(32)}), 400, "MalformedTensors"),
    ("wrong width", vector(31), 422, "WrongWidth"),
    ("zero", save({"read": torch.zeros(32)}, metadata={"name": "mine"}), 422, "ZeroDirection"),
    ("NaN", save({"read": torch.full((32,), torch.nan)}, metadata={"name": "mine"}), 422, "ZeroDirection"),
    ("unknown site", vector(32, site="nowhere"), 422, "UnknownSite"),
]


@pytest.mark.parametrize(("data", "status", "type"), [c[1:] for c in BAD_TENSORS], ids=[c[0] for c in BAD_TENSORS])
def test_malformed_tensors(http: httpx.Client, data: bytes, status: int, type: str) -> None:
    before = http.get("/api/state").json()
    refused(send(http, "import_direction", data), status, type)
    assert http.get("/api/state").json() == before


def test_an_imported_direction_can_be_read_and_steered_along(http: httpx.Client, server: Server) -> None:
    ref = send(http, "import_direction", vector(32, name="kept")).json()["value"]
    assert ref == {"kind": "saved", "name": "kept"}
    assert send(http, "import_direction", vector(32, name="kept")).json()["value"] == ref
    refused(
        send(http, "import_direction", vector(32, name="kept", site="resid_post.2")),
        400,
        "MalformedTensors",
    )
    assert {"name": "kept", "site": "resid_post.1"}.items() <= state(http)["directions"][-1].items()
    assert ask(http, "read_direction", direction=ref).json()["label"] == "kept"
    steer = {"kind": "steer", "site": "resid_post.1", "direction": ref, "strength": 4.0}
    id = http.post("/api/intents/add_edit", json={"edit": steer}).json()["value"]["id"]
    assert server.session.wait(60)
    edited = next(edit for edit in state(http)["edits"] if edit["id"] == id)
    assert edited["delta"] != 0
    http.post("/api/intents/set_edits", json={"edits": []})
    assert server.session.wait(60)


def test_bodies_have_limits(http: httpx.Client) -> None:
    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 100_000

    refused(http.post("/api/intents/set_prompt", content=b" " * 3_000_000, headers=JSON), 413, "MalformedJSON")
    refused(http.post("/api/intents/set_prompt", content=chunks(), headers=JSON), 413, "MalformedJSON")
    refused(send(http, "import_direction", b" " * 17_000_000), 413, "MalformedJSON")


def test_an_item_may_be_a_dictionary_of_many_features_and_not_without_end(http: httpx.Client, server: Server) -> None:
    refused(send(http, "import_item", b" " * 17_000_000, name="spaces"), 422, "DamagedFile")
    asking = HTTPConnection("127.0.0.1", server.port)
    asking.putrequest("POST", "/api/intents/import_item?name=endless")
    for header, value in {
        "authorization": f"Bearer {server.token}",
        "content-length": str(513 << 20),
        **OCTETS,
    }.items():
        asking.putheader(header, value)
    asking.endheaders()
    assert asking.getresponse().status == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "type"),
    [
        ("GET", "/api/nowhere", 404, "NotFound"),
        ("GET", "/docs", 404, "NotFound"),
        ("GET", "/openapi.json", 404, "NotFound"),
        ("GET", "/assets/none.js", 404, "NotFound"),
        ("GET", "/api/intents/undo", 405, "WireError"),
        ("POST", "/", 405, "WireError"),
        ("DELETE", "/api/state", 405, "WireError"),
        ("GET", "/api/runs/r1/stream", 404, "NotFound"),
        ("GET", "/api/queries/stream", 405, "WireError"),
        ("POST", "/api/queries/none", 404, "NotFound"),
        ("POST", "/api/intents/library_search", 404, "NotFound"),
        ("POST", "/api/queries/library_search", 404, "NotFound"),
    ],
)
def test_addresses(http: httpx.Client, method: str, path: str, status: int, type: str) -> None:
    refused(http.request(method, path), status, type)


@pytest.mark.parametrize(
    ("query", "args", "status", "type"),
    [
        ("stream", {"run": "r9999"}, 404, "NotFound"),
        ("coef", {"run": "r9999", "dictionary": "pca@resid_post.1"}, 404, "NotFound"),
        ("coef", {"run": "RUN"}, 400, "MalformedJSON"),
        ("coef", {"run": "RUN", "dictionary": "pca@z.1"}, 404, "NotFound"),
        ("logits", {"run": "RUN"}, 400, "MalformedJSON"),
        ("logits", {"run": "RUN", "positive": "a", "negative": 1}, 400, "MalformedJSON"),
        ("logits", {"run": "RUN", "positive": 0, "negative": 97}, 422, "UnknownToken"),
        ("lens", {"run": "RUN", "layer": 4, "pos": 0}, 422, "UnknownLayer"),
        ("lens", {"run": "RUN", "layer": 0, "pos": 999}, 422, "UnknownPosition"),
        ("dictionary", {}, 400, "MalformedJSON"),
        ("dictionary", {"id": "pca@nowhere"}, 404, "NotFound"),
        ("gram", {}, 400, "MalformedJSON"),
        ("gram", {"of": ["pca@nowhere"]}, 404, "NotFound"),
        ("gram", {"of": ["pca@resid_post.1", "saved:none"]}, 404, "NotFound"),
    ],
)
def test_queries_that_cannot_be_answered(
    http: httpx.Client, query: str, args: dict[str, Any], status: int, type: str
) -> None:
    run = state(http)["current"]["a"]
    args = {name: run if value == "RUN" else value for name, value in args.items()}
    refused(ask(http, query, **args), status, type)


def test_our_own_mistakes_have_the_shape_too(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("k")

    monkeypatch.setattr(server.session, "snapshot", broken)
    error = refused(http.get("/api/state"), 500, "ResidscopeError")
    assert "KeyError" in error["message"]


def test_no_page_says_how_to_build_it(tmp_path: Any) -> None:
    from session import worlds

    with worlds.session() as session, Server(session, port=0, page=tmp_path) as bare:
        answer = httpx.get(bare.base, headers={"authorization": f"Bearer {bare.token}"})
        assert "make" in refused(answer, 503, "NoPage")["fix"]


def test_tensors_travel_as_safetensors(http: httpx.Client, server: Server) -> None:
    http.post("/api/intents/set_prompt", json={"text": "tensors"})
    assert server.session.wait(60)
    run = state(http)["current"]["a"]
    answer = ask(http, "stream", run=run)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert shapes(answer) == {"norm": (5, 7), "sink": (5, 7), "next_id": (7, 5), "next_p": (7, 5)}
    assert [len(row) for row in json.loads(metadata(answer)["next_text"])] == [5] * 7
    coef = ask(http, "coef", run=run, dictionary="pca@resid_post.1")
    assert coef.headers["content-type"] == "application/octet-stream"
    assert shapes(coef) == {"coef": (5, 7, 3), "offset": (5, 3), "sink": (5, 7)}
    rows = ["embed", "resid_post.0", "resid_post.1", "resid_post.2", "resid_post.3"]
    assert {name: json.loads(value) for name, value in metadata(coef).items()} == {"rows": rows, "fitted_row": 2}
    logits = load(ask(http, "logits", run=run, positive=3, negative=4).content)
    assert {name: tuple(t.shape) for name, t in logits.items()} == {"value": (5, 7), "offset": (5, 7)}
    assert len(ask(http, "lens", run=run, layer=-1, pos=2).json()["top"]) == 5
    found = ask(http, "dictionary", id="pca@resid_post.1").json()
    assert (found["id"], found["site"], found["place"], found["head"]) == (
        "pca@resid_post.1",
        "resid_post.1",
        "resid_post.1",
        None,
    )
    assert [component["label"] for component in found["components"]] == ["PC 0", "PC 1", "PC 2"]


def test_a_dictionary_is_fitted_read_and_forgotten_over_the_wire(http: httpx.Client, server: Server) -> None:
    """All that the page does with one: fit a head's, read the run along it, mix it, forget it."""
    text = {
        "kind": "typed",
        "name": "lines.jsonl",
        "text": "\n".join(f'{{"text": "line number {n}, {n * n}"}}' for n in range(99)),
    }
    recipe = {"site": "z.1", "head": 2, "corpus": text, "tokens": 1000, "n": 3}
    told = http.post("/api/intents/start", json={"method": "pca", "args": recipe}).json()
    assert told["ok"]
    assert server.session.wait(60)
    found = state(http)
    assert found["jobs"][-1]["phase"] == "done"
    row = found["model"]["dictionaries"][-1]
    told = ask(http, "dictionary", id="pca@z.1.h2").json()
    assert row == {
        "id": "pca@z.1.h2", "site": "z.1", "head": 2, "place": "z.1 head 2", "kind": "pca", "n": 3, "space": "centred",
        "standardised": False, "fitted_on": "lines.jsonl", "tokens": told["tokens"], "shipped": False, "width": 8,
        "write_site": "z.1", "linear": True, "activation": None, "beside_stream": False,
        "hash": server.session.state.model.dictionary("pca@z.1.h2").hash,
    }  # fmt: skip
    assert all((c["top"], c["cos_logit_diff"]) == ([], None) and c["variance"] > 0 for c in told["components"])
    run = found["current"]["a"]
    coef = ask(http, "coef", run=run, dictionary="pca@z.1.h2")
    n_pos = len(found["prompt"]["tokens"])
    assert shapes(coef) == {"coef": (4, n_pos, 3), "offset": (4, 3), "sink": (4, n_pos)}
    assert json.loads(metadata(coef)["rows"]) == ["z.0", "z.1", "z.2", "z.3"]
    gram = ask(http, "gram", of=["pca@z.1.h2"]).json()
    torch.testing.assert_close(torch.tensor(gram["gram"]), torch.eye(3), atol=1e-5, rtol=0)
    assert refused(ask(http, "gram", of=["pca@z.1.h2", "pca@resid_post.1"]), 422, "WrongWidth")
    mix = mixed(("pca@z.1.h2", 0, 1.0), ("pca@z.1.h2", 2, -0.5))
    assert ask(http, "read_direction", direction=mix).json()["label"] == "PC 0 of z.1 head 2 - 0.5 PC 2"
    assert http.post("/api/intents/forget_dictionary", json={"id": "pca@z.1.h2"}).status_code == 200
    refused(ask(http, "dictionary", id="pca@z.1.h2"), 404, "NotFound")
    refused(ask(http, "coef", run=run, dictionary="pca@z.1.h2"), 404, "NotFound")
    refused(ask(http, "read_direction", direction=mix), 404, "NotFound")


def test_a_compared_run_of_another_prompt_brings_its_tokens(http: httpx.Client, server: Server) -> None:
    http.post("/api/intents/set_prompt", json={"text": "one"})
    assert server.session.wait(60)
    first = state(http)["current"]["a"]
    http.post("/api/intents/set_prompt", json={"text": "two!"})
    assert server.session.wait(60)
    http.post("/api/intents/compare_run", json={"run": first})
    found = state(http)
    runs = {run["id"]: run for run in found["runs"]}
    a, b = (runs[found["current"][which]] for which in "ab")
    assert ["".join(token["text"] for token in run["tokens"]) for run in (a, b)] == ["one", "two!"]
    assert (a["version"] < b["version"], b["version"]) == (True, found["version"])
    assert {run["id"] for run in found["runs"] if run["tokens"]} == {a["id"], b["id"]}
    http.post("/api/intents/compare_run", json={"run": None})


def test_the_tensors_of_a_run_come_before_the_news_of_it(server: Server, http: httpx.Client) -> None:
    had: dict[str, bytes] = {}
    with open_socket(server) as socket:
        socket.send(json.dumps({"id": 1, "intent": "set_prompt", "args": {"text": "sent ahead"}}))
        news, told = dict[str, Any](), dict[str, Any]()
        while not any(run["prompt"] == "sent ahead" for run in told.get("runs", ())):
            data = socket.recv(timeout=60)
            if isinstance(data, bytes):
                size = int.from_bytes(data[:4], "little")
                asked = json.loads(data[4 : 4 + size])
                had[json.dumps(asked, sort_keys=True)] = data[4 + size :]
                continue
            message = json.loads(data)
            told, news = changed(told, message), message.get("patch", {})
            if (run := news.get("current", {}).get("a")) is not None:
                assert json.dumps({"args": {"next": "last", "run": run}, "query": "stream"}, sort_keys=True) in had
    run = news["current"]["a"]
    mine = {asked: data for asked, data in had.items() if json.loads(asked)["args"]["run"] == run}
    assert {json.loads(asked)["query"] for asked in mine} == {"stream", "logits"}
    for asked, data in mine.items():
        told = json.loads(asked)
        answer = http.post(f"/api/queries/{told['query']}", json=told["args"])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content == data


def test_the_socket_sends_the_state_then_numbered_patches(server: Server, http: httpx.Client) -> None:
    with open_socket(server) as socket:
        first = read(socket)
        assert first == http.get("/api/state").json()
        current, seq = first["state"], first["seq"]
        socket.send(json.dumps({"id": 7, "intent": "set_prompt", "args": {"text": "by socket"}}))
        answered = False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = read(socket)
            if "patch" in message:
                seq += 1
                assert message["seq"] == seq
                current = changed(current, message)
            else:
                assert message == {"id": 7, "ok": True, "value": None}
                answered = True
            if answered and current["status"]["phase"] == "idle" and current["runs"][-1]["prompt"] == "by socket":
                break
        assert server.session.wait(60)
        final = http.get("/api/state").json()
        while seq < final["seq"]:
            message = read(socket)
            seq, current = message["seq"], changed(current, message)
        assert current == final["state"]


@pytest.mark.parametrize(
    ("message", "id", "type"),
    [
        ("{", None, "MalformedJSON"),
        ("[1]", None, "MalformedJSON"),
        ('{"id": 1}', None, "MalformedJSON"),
        (b"\x00", None, "MalformedJSON"),
        (b"", None, "MalformedJSON"),
        (b"\xff\xff\xff\xff{}", None, "MalformedJSON"),
        (b"\x02\x00\x00\x00[]", None, "MalformedJSON"),
        (framed({"id": 12, "intent": "import_direction", "args": []}, b"x"), None, "MalformedJSON"),
        (framed({"id": 13, "intent": "import_direction", "args": {}}, b"no tensors"), 13, "MalformedTensors"),
        (framed({"id": 14, "intent": "import_item", "args": {"name": 3}}, WHOLE), 14, "MalformedJSON"),
        (framed({"id": 15, "intent": "set_prompt", "args": {"text": "a"}}, b"x"), 15, "MalformedJSON"),
        ('{"id": 16, "intent": "import_direction", "args": {"data": "text"}}', 16, "MalformedJSON"),
        ('{"id": 2, "intent": "no_such"}', 2, "NotFound"),
        ('{"id": 5, "query": "no_such"}', 5, "NotFound"),
        ('{"id": 6, "query": "gram", "args": {"of": []}}', 6, "MalformedJSON"),
        ('{"query": 3}', None, "MalformedJSON"),
        ('{"intent": "python", "query": "manifest"}', None, "MalformedJSON"),
        ('{"id": 3, "intent": "set_prompt", "args": {"text": ""}}', 3, "EmptyPrompt"),
        ('{"id": 4, "intent": "set_edits", "args": {"edits": [{}]}}', 4, "BadEdit"),
    ],
)
def test_the_socket_refuses_in_the_same_shape(server: Server, message: str | bytes, id: int | None, type: str) -> None:
    with open_socket(server) as socket:
        before = read(socket)
        socket.send(message)
        answer = read(socket)
        assert (answer["id"], answer["error"]["type"], answer["error"].keys()) == (id, type, FIELDS)
        socket.send(json.dumps({"id": 9, "intent": "python"}))
        assert read(socket)["id"] == 9
        assert server.session.snapshot() == (before["seq"], before["state"])


def test_the_socket_answers_a_query_as_http_does(server: Server, http: httpx.Client) -> None:
    run = server.session.snapshot()[1]["current"]["a"]
    with open_socket(server) as socket:
        read(socket)
        for name, args in (("gram", {"of": ["pca@resid_post.1"]}), ("lens", {"run": run, "layer": 0, "pos": 0})):
            socket.send(json.dumps({"id": 11, "query": name, "args": args}))
            assert read(socket) == {"id": 11, "ok": True, "value": http.post(f"/api/queries/{name}", json=args).json()}
        pairs = (("stream", {"run": run}), ("coef", {"run": run, "dictionary": "pca@resid_post.1", "indices": [1, 0]}))
        for id, (name, args) in enumerate(pairs, 20):
            socket.send(json.dumps({"id": id, "query": name, "args": args}))
            head, tensors = read_frame(socket, id)
            assert head == {"id": id, "ok": True}
            ours, theirs = (
                load(tensors),
                load(http.post(f"/api/queries/{name}", json=args).content),
            )  # their metadata has no order
            assert ours.keys() == theirs.keys()  # their metadata comes in any order
            assert all(torch.equal(ours[part], theirs[part]) for part in ours)
        socket.send(json.dumps({"id": 30, "query": "stream", "args": {"run": "no such"}}))
        assert read(socket)["error"]["type"] == "NotFound"


def test_a_file_travels_in_a_frame_or_as_the_body(server: Server, http: httpx.Client) -> None:
    with open_socket(server) as socket:
        read(socket)
        socket.send(framed({"id": 1, "intent": "import_direction"}, vector(32, name="framed")))
        while (answer := read(socket)).get("id") != 1:
            pass
        assert answer == {"id": 1, "ok": True, "value": {"kind": "saved", "name": "framed"}}
        kind = "application/octet-stream; charset=binary"
        sent = http.post(
            "/api/intents/import_direction", content=vector(32, name="posted"), headers={"content-type": kind}
        )
        assert sent.json() == {"ok": True, "value": {"kind": "saved", "name": "posted"}}
        names = [direction["name"] for direction in state(http)["directions"]]
        assert {"framed", "posted"} <= {*names}
        refused(send(http, "import_direction", WHOLE, banana="1"), 400, "MalformedJSON")
        refused(http.post("/api/intents/import_item", content=b"x", headers=JSON), 400, "MalformedJSON")
        socket.send(framed({"id": 2, "intent": "import_direction"}, b"\x00" * 3_000_000))  # more than JSON may have
        while (answer := read(socket)).get("id") != 2:
            pass
        assert answer["error"]["type"] == "MalformedTensors"


def test_an_item_goes_out_as_a_file_and_comes_in_again(server: Server, http: httpx.Client) -> None:
    job = http.post(
        "/api/intents/start",
        json={
            "method": "draw-prompts",
            "args": {"text": {"kind": "typed", "name": "t.txt", "text": "A cat sat on a mat."}},
        },
    )
    assert job.status_code == 200
    assert server.session.wait(60)
    name = state(http)["items"]["items"][-1]["name"]
    data = http.get("/api/items/file", params={"name": name, "ending": ".safetensors"}).content
    told = send(http, "import_item", data, name="come back").json()["value"]
    assert told == {"name": "come back", "names": ["come back"]}
    again = http.get("/api/items/file", params={"name": "come back", "ending": ".csv"}).status_code
    assert again == http.get("/api/items/file", params={"name": name, "ending": ".csv"}).status_code
    refused(send(http, "import_item", b"nothing", name="x"), 422, "DamagedFile")
    assert len(ask(http, "item", name="come back").json()["views"]) == 1
    for left in ("come back", name):
        http.post("/api/intents/delete_item", json={"name": left})


def test_a_message_too_large_closes_that_socket_alone(server: Server, http: httpx.Client) -> None:
    with open_socket(server) as big, open_socket(server) as other:
        read(big), read(other)
        big.send("x" * 3_000_000)
        with pytest.raises(ConnectionClosed):
            read(big)
        other.send(json.dumps({"id": 1, "intent": "python"}))
        assert read(other)["ok"]


def test_a_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    with open_socket(server, max_queue=1, close_timeout=1) as deaf, open_socket(server) as other:
        read(other)  # the state
        for burst in range(12):
            for n in range(50):
                server.session.intent("select", {"layer": (burst + n) % 2, "pos": n % 2})
            seq = server.session.snapshot()[0]
            while read(other)["seq"] < seq:
                pass
        assert deaf.protocol.close_code is None or deaf.protocol.close_code == 1013


def test_an_overfull_box_is_given_up() -> None:
    import asyncio

    async def main() -> None:
        box = Outbox(2)
        for n in range(3):
            box.put(Told.of({"n": n}))
        assert box.overflowed.is_set()
        heavy = Outbox(most=100)
        heavy.put(b"x" * 1000)  # whatever its size, it goes alone
        assert not heavy.overflowed.is_set()
        heavy.put(b"x")
        assert heavy.overflowed.is_set()

    asyncio.run(main())


def shapes(answer: httpx.Response) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in load(answer.content).items()}


def metadata(answer: httpx.Response) -> dict[str, str]:
    return json.loads(answer.content[8 : 8 + int.from_bytes(answer.content[:8], "little")])["__metadata__"]


def state(http: httpx.Client) -> dict[str, Any]:
    return http.get("/api/state").json()["state"]


def open_socket(server: Server, **options: Any) -> ClientConnection:
    headers = {"authorization": f"Bearer {server.token}"}
    return connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers, **options)


def read_frame(socket: ClientConnection, id: int) -> tuple[dict[str, Any], bytes]:
    """The answer in a frame: its head, and its tensors."""
    while True:
        data = socket.recv(timeout=60)
        if not isinstance(data, bytes):
            continue
        size = int.from_bytes(data[:4], "little")
        if (head := json.loads(data[4 : 4 + size])).get("id") == id:
            return head, data[4 + size :]


def changed(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """A state after what was said."""
    state = state | message.get("state", {}) | message.get("patch", {})
    for key, part in message.get("parts", {}).items():
        things = [*part["new"], *state[key]]
        state[key] = [next(one for one in things if one["id"] == id) for id in part["ids"]]
    return state


def read(socket: ClientConnection) -> dict[str, Any]:
    """The next message in JSON; the tensors that go before it are `tensors`. Nothing of who comes and goes meanwhile."""
    while isinstance(data := socket.recv(timeout=60), bytes) or json.loads(data).get("patch", {}).keys() == {"present"}:
        pass
    return json.loads(data)
