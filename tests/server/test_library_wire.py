"""The library as queries and intents: through HTTP and the WebSocket, and its addresses of 0.1 as other names for them."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from residscope.server import Server, library
from residscope.server.routes import NAMES
from server.asking import PC, ask, do, refused, save, send
from server.test_wire import framed, read

Person = Callable[..., httpx.Client]


@pytest.fixture
def socket(with_library: Server) -> Any:
    with open_socket(with_library) as opened:
        yield opened


def open_socket(server: Server, cookie: str = "") -> ClientConnection:
    headers = {"authorization": f"Bearer {server.token}"} | ({"cookie": cookie} if cookie else {})
    return connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers)


def say(socket: ClientConnection, **message: Any) -> Any:
    socket.send(json.dumps({"id": 1, **message}))
    while (answer := read(socket)).get("id") != 1:
        pass
    return answer.get("value", answer.get("error", {}).get("type"))


def test_every_address_of_0_1_is_an_intent_or_a_query() -> None:
    names = {*library.QUERIES, *library.INTENTS}
    assert {name for _, _, name in NAMES} == names - {
        "library_blind", "library_blind_test", "library_guess", "library_alike", "library_somebody", "library_features",
    }  # fmt: skip


def test_all_that_is_changed_and_read_by_intents_and_queries(person: Person) -> None:
    ada, bob = person(), person("bob")
    answer = do(ada, "library_sign_in", name="ada by intent")
    assert answer.json() == {"ok": True, "value": {"name": "ada by intent"}}
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert ask(ada, "library_me").json() == {"name": "ada by intent"}
    entry = do(ada, "library_save", direction=PC, name="by intent", description="d").json()["value"]
    found = ask(bob, "library_search", text="by intent", limit=1).json()
    assert found["entries"] == [entry]
    whole = ask(bob, "library_read", id=entry["id"]).json()
    assert whole == bob.get(f"api/library/directions/{entry['id']}").json()
    said = whole["descriptions"][0]["id"]
    assert do(bob, "library_vote", id=said, value=1).json()["value"]["up"] == 1
    comment = do(bob, "library_comment", id=entry["id"], text="hm").json()["value"]
    assert do(bob, "library_describe", id=entry["id"], text="another").json()["value"]["author"] == "bob"
    edited = do(ada, "library_edit_description", id=said, text="e", seen=whole["descriptions"][0]["version"])
    assert edited.json()["value"]["text"] == "e"
    assert refused(do(ada, "library_rename", id=entry["id"], name="x", seen=99)) == (409, "EditedSince")
    assert do(ada, "library_rename", id=entry["id"], name="renamed").json()["value"]["name"] == "renamed"
    assert do(ada, "library_open", id=entry["id"]).json()["value"]["kind"] == "saved"
    file = ada.get(f"api/library/directions/{entry['id']}/file").content
    assert send(bob, "library_import", file).json()["value"]["new"] is False
    assert refused(send(bob, "library_import", b"x" * 17_000_000)) == (413, "MalformedJSON")
    assert "event" in do(bob, "library_delete_comment", id=comment["id"]).json()["value"]
    assert "event" in do(ada, "library_delete_description", id=said).json()["value"]
    event = do(ada, "library_delete", id=entry["id"]).json()["value"]["event"]
    assert refused(do(bob, "library_undo", event=event)) == (403, "NotYours")
    assert do(ada, "library_undo", event=event).json()["value"]["id"] == entry["id"]
    assert do(ada, "library_sign_out").json()["value"] == ask(ada, "library_me").json() == {"name": None}
    assert refused(do(ada, "library_vote", id=said, value=1)) == (403, "NoUser")


def test_who_one_is_over_a_socket_is_in_its_cookie_until_one_signs_in(
    person: Person, with_library: Server, socket: ClientConnection
) -> None:
    ada = person("ada")
    cookies = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())
    with open_socket(with_library, cookie=cookies) as hers:
        assert say(hers, query="library_me") == {"name": "ada"}
        entry = say(hers, intent="library_save", args={"direction": PC, "name": "over a socket"})
        assert entry["owner"] == "ada"
        assert say(socket, query="library_me") == {"name": None}
        assert say(socket, intent="library_delete", args={"id": entry["id"]}) == "NoUser"
        assert say(socket, intent="library_sign_in", args={"name": "cy"}) == {"name": "cy"}
        assert say(socket, query="library_me") == {"name": "cy"}
        assert say(socket, intent="library_delete", args={"id": entry["id"]}) == "NotYours"
        assert say(hers, query="library_me") == {"name": "ada"}, "another connection is another person"
        file = ada.get(f"api/library/directions/{entry['id']}/file").content
        socket.send(framed({"id": 5, "intent": "library_import", "args": {}}, file))
        while (answer := read(socket)).get("id") != 5:
            pass
        assert answer["value"]["new"] is False


def test_another_site_s_page_cannot_change_by_intent(person: Person) -> None:
    ada = person("ada")
    entry = save(ada, "not to be deleted by strangers")
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = ada.post("api/intents/library_delete", json={"id": entry["id"]}, headers=headers)
        assert refused(answer) == (403, "ForeignHost")
    assert ask(ada, "library_read", id=entry["id"]).status_code == 200


@pytest.mark.parametrize(
    ("kind", "name", "args", "status"),
    [
        ("queries", "library_read", {"id": "none"}, 404),
        ("queries", "library_search", {"limit": 1000}, 400),
        ("queries", "library_search", {"sort": "best"}, 400),
        ("queries", "library_search", {"limit": "20"}, 400),
        ("queries", "library_search", {"after": "x"}, 404),
        ("queries", "library_search", {"text": "\x00"}, 200),
        ("queries", "library_vote", {"id": "none", "value": 1}, 404),
        ("queries", "library_blind_test", {"test": "none"}, 404),
        ("intents", "library_me", {}, 404),
        ("intents", "library_save", {"direction": {"kind": "magic"}, "name": "x"}, 400),
        ("intents", "library_save", {"direction": PC, "name": ""}, 422),
        ("intents", "library_save", {"direction": PC}, 400),
        ("intents", "library_import", {"data": "bytes in JSON"}, 400),
        ("intents", "library_vote", {"id": "none", "value": 1, "user": "ada"}, 400),
        ("intents", "library_vote", {"id": "none", "value": 2}, 400),
        ("intents", "library_undo", {"event": "last"}, 400),
    ],
)
def test_what_is_refused_has_the_one_shape(person: Person, kind: str, name: str, args: Any, status: int) -> None:
    answer = person("eve").post(f"api/{kind}/{name}", json=args)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"].keys() == {"type", "message", "received", "allowed", "fix"}
        assert len(answer.text) < 3_000


def test_who_is_there_and_what_changes_is_told_to_everybody(with_library: Server, person: Person) -> None:
    session = with_library.session

    def present() -> dict[str | None, int]:
        return {one["name"]: one["windows"] for one in session.snapshot()[1]["present"]}

    with open_socket(with_library) as one, open_socket(with_library) as other:
        assert say(one, query="library_me") == {"name": None}
        assert present() == {None: 2}
        assert say(one, intent="library_sign_in", args={"name": "here"}) == {"name": "here"}
        assert present() == {"here": 1, None: 1}
        before = session.snapshot()[1]["library"]
        assert refused(do(person(), "library_save", direction=PC, name="by nobody"))[0] == 403
        assert session.snapshot()[1]["library"] == before, "what is refused is no change"
        entry = do(person("writer"), "library_save", direction=PC, name="told of", description="a word").json()["value"]
        while (message := read(other)).get("patch", {}).get("library") != before + 1:
            assert message
        alike = say(other, query="library_alike", args={"direction": PC})
        assert entry["id"] in [one["id"] for one in alike["entries"]]
        assert say(other, query="library_somebody", args={"name": "writer"})["directions"] == 1
        assert say(one, intent="library_sign_out") == {"name": None}
        assert present() == {None: 2}
