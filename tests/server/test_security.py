"""Nobody comes in who should not: token, cookie, Host, Origin, and what every answer carries."""

import base64
import hashlib
import re
import socket
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from residscope.errors import PortInUse
from residscope.server import Server
from residscope.server.listen import bind
from residscope.server.people import People
from residscope.session import Session
from residscope.store import Library
from server.entering import enter, secret_of
from session import worlds

PATHS = [
    "/",
    "/api/state",
    "/api/items/file?name=x&ending=.csv",
    "/assets/app.js",
    "/nowhere",
    "/docs",
    "/openapi.json",
]


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_answers(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "NotAllowed")


def test_the_link_sets_a_cookie_and_leaves_no_token_behind(server: Server, stranger: httpx.Client) -> None:
    answer = stranger.get(f"/?token={server.token}")
    assert answer.status_code == 303
    assert re.fullmatch(r"\./\?page=[\w-]{40,}", answer.headers["location"])
    assert server.token not in answer.headers["location"]
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"residscope-{server.port}=")
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert stranger.get("/").text.startswith("<!doctype html>")
    assert stranger.get("/assets/app.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("given", ["wrong", "", "ünïcode"])
def test_a_wrong_token_is_refused(stranger: httpx.Client, server: Server, given: str) -> None:
    assert stranger.get("/", params={"token": given}).status_code == 401
    assert stranger.get("/api/state", headers={"authorization": f"Bearer x{given}".encode()}).status_code == 401
    cookie = f"residscope-{server.port}=x".encode()
    assert stranger.get("/api/state", headers={"cookie": cookie}).status_code == 401
    assert stranger.get(f"/api/state?token={server.token}").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", "0.0.0.0"]
)
def test_a_foreign_host_is_refused(http: httpx.Client, host: str) -> None:
    answer = http.get("/api/state", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "ForeignHost")
    assert "evil" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:1", "[::1]:80", "LOCALHOST"])
def test_a_forwarded_port_is_not(http: httpx.Client, host: str) -> None:
    assert http.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "https://HOST"]
)
def test_a_foreign_origin_cannot_write_or_listen(server: Server, http: httpx.Client, origin: str) -> None:
    origin = origin.replace("HOST", f"127.0.0.1:{server.port}")
    before = http.get("/api/state").json()
    answer = http.post("/api/intents/set_prompt", json={"text": "stolen"}, headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "ForeignHost")
    with pytest.raises(InvalidStatus) as refused:
        connect(ws(server), additional_headers={"authorization": f"Bearer {server.token}", "origin": origin})
    assert refused.value.response.status_code == 403
    assert http.get("/api/state").json() == before


def test_another_site_s_page_reads_nothing(http: httpx.Client) -> None:
    for site in ("cross-site", "same-site"):
        assert http.get("/api/state", headers={"sec-fetch-site": site}).status_code == 403
    assert http.get("/api/state", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_the_own_origin_may(server: Server, http: httpx.Client) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert http.post("/api/intents/undo", headers={"origin": own}).status_code == 200
    with connect(ws(server), additional_headers={"authorization": f"Bearer {server.token}", "origin": own}):
        pass


def test_the_websocket_asks_for_the_token(server: Server) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with pytest.raises(InvalidStatus) as refused:
            connect(ws(server), additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert b"NotAllowed" in refused.value.response.body
    with httpx.Client() as browser:
        invited = browser.get(server.url)
    cookie = invited.headers["set-cookie"].partition(";")[0]
    with connect(f"{ws(server)}?page={secret_of(invited)}", additional_headers={"cookie": cookie}):
        pass


@pytest.mark.parametrize("path", ["/", "/api/state", "/assets/app.js", "/nowhere", "/api/intents/none"])
def test_every_answer_is_strict(http: httpx.Client, stranger: httpx.Client, path: str) -> None:
    for client in (http, stranger):
        answer = client.get(path, headers={"origin": "null"})
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        host = f"127.0.0.1:{client.base_url.port}"
        assert policy == {
            "default-src": "'self'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": f"'self' ws://{host}",
            "object-src": "'none'",
            "base-uri": "'self'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers


def test_assets_stay_in_their_folder(http: httpx.Client) -> None:
    for path in ("/assets/../index.html", "/assets/%2e%2e/index.html", "/assets/%2e%2e%2f%2e%2e%2fetc/passwd"):
        assert http.get(path).status_code == 404


def test_assets_come_compressed_to_whoever_reads_that(http: httpx.Client) -> None:
    told = http.get("/assets/large.js", headers={"accept-encoding": "gzip"})
    assert (told.headers["content-encoding"], told.text) == ("gzip", "export {};\n" * 1000)
    assert int(told.headers.get("content-length", told.num_bytes_downloaded)) < 1000
    plain = http.get("/assets/large.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == told.text


@pytest.mark.parametrize(("asked", "packed"), [
    ("gzip, deflate, br, zstd", True), ("br;q=0.5", True), ("br", True),
    ("gzip", False), ("br;q=0", False), ("br;q=0.0, gzip", False), ("brotli", False), ("", False),
])  # fmt: skip
def test_what_was_packed_when_the_page_was_built_goes_to_who_takes_it(
    http: httpx.Client, asked: str, packed: bool
) -> None:
    with http.stream("GET", "/assets/large.js", headers={"accept-encoding": asked}) as told:
        raw = b"".join(told.iter_raw())
    assert told.headers["content-type"].startswith("text/javascript")
    assert "Accept-Encoding" in told.headers["vary"]
    assert (told.headers.get("content-encoding") == "br", raw == b"packed before") == (packed, packed)
    old = http.head("/assets/large.js", headers={"accept-encoding": asked, "if-none-match": told.headers["etag"]})
    assert old.status_code == 304


def test_loopback_in_any_words_is_this_machine_alone() -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.2"):
        listening, network = bind(host, 0)
        listening.close()
        assert not network


def test_a_taken_port_is_named_before_anything_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=re.escape(f"127.0.0.1:{port}")):
            bind("127.0.0.1", port)


def ws(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/ws"


@pytest.mark.parametrize("path", ["/", "/?token=old", "/nowhere"])
def test_a_person_who_is_refused_reads_words_and_not_json(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "Open the link that residscope open printed" in answer.text
    assert "{" not in answer.text.split("</style>")[1]
    style = answer.text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy, "or the browser draws the words without their style"
    assert "default-src 'none'" in policy


def test_what_a_person_is_refused_is_text_and_no_markup(http: httpx.Client) -> None:
    answer = http.get("/<img src=x onerror=alert(1)>", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "<img" not in answer.text
    assert "&lt;img" in answer.text or "%3Cimg" in answer.text


def test_whoever_was_let_in_stays_in_when_the_server_is_started_again(library: Library, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")

    def serving(session: Session, port: int) -> Server:
        return Server(session, port=port, page=tmp_path, library=library)

    with worlds.session() as session, httpx.Client() as browser:
        first = serving(session, 0).start()
        old, port = first.url, first.port
        assert enter(browser, old).status_code == 303
        assert browser.get(f"{first.base}api/state").status_code == 200
        first.stop()
        again = serving(session, port).start()
        assert again.token != first.token
        try:
            assert browser.get(f"{again.base}api/state").status_code == 200
            assert browser.get(old).status_code == 303, "the old link serves whoever is in"
            with httpx.Client() as other:
                assert other.get(old).status_code == 401, "and nobody else"
                assert other.get(f"{again.base}api/state").status_code == 401
        finally:
            again.stop()


def test_a_cookie_opens_the_server_of_its_own_port_alone(tmp_path: Path) -> None:
    people = People(tmp_path)
    assert people.key_of("1") != people.key_of("2")
    assert People(tmp_path).key_of("1") == people.key_of("1")
    assert people.name_in(f"{'door 1'}.{people.key_of('1')}") is None, "a door's key is no name"
