"""The model elsewhere: on a network, and behind forwarders and proxies that somebody named."""

import ssl
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from residscope.errors import BadAddress, ForeignHost
from residscope.server import Server
from residscope.server.addresses import Addresses, Forwarder
from residscope.server.listen import bind
from server.nginx import Proxy, free_port, nginx
from session import worlds

HUB = "https://hub.example.org/user/ada/proxy/8765/"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Proxy]]:
    page = tmp_path_factory.mktemp("ui")
    (page / "index.html").write_text("<!doctype html><title>Residscope</title>")
    port = free_port()
    named = Proxy(port)
    with (
        worlds.session() as session,
        Server(session, port=0, page=page, behind=[named.stripped, named.whole]) as server,
        nginx(port, server.port) as proxy,
    ):
        yield server, proxy


@pytest.mark.parametrize("which", [0, 1])
def test_a_proxy_s_link_opens_the_page_and_its_cookie_goes_nowhere_else(behind: Any, which: int) -> None:
    server, proxy = behind
    base = (proxy.stripped, proxy.whole)[which]
    link = server.urls[which]
    assert link.startswith(base)
    with httpx.Client(verify=False, timeout=60) as browser:
        invited = browser.get(link)
        assert (invited.status_code, invited.headers["location"][:8]) == (303, "./?page=")
        page = invited.headers["location"][8:]
        browser.headers["x-residscope-page"] = page
        (cookie,) = SimpleCookie(invited.headers["set-cookie"]).values()
        assert (cookie["path"], cookie["secure"], cookie["httponly"]) == (base[base.index("/", 8) :], True, True)
        assert cookie["samesite"].lower() == "strict"
        assert browser.get(base).text.startswith("<!doctype html>")
        origin = base[: base.index("/", 8)]
        told = browser.post(f"{base}api/intents/set_prompt", json={"text": "abc"}, headers={"origin": origin})
        assert told.json()["ok"]
        assert browser.get(f"{base}api/state").json()["state"]["prompt"]["text"] == "abc"
        held = f"{cookie.key}={cookie.value}"
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    where = base.replace("https", "wss") + f"ws?page={page}"
    with connect(where, ssl=anyone, origin=origin, additional_headers={"cookie": held}) as socket:
        assert '"abc"' in str(next(m for m in iter(lambda: socket.recv(30), None) if isinstance(m, str)))
    with pytest.raises(InvalidStatus, match="403"):
        connect(where, ssl=anyone, origin="https://evil.example", additional_headers={"cookie": held})


def test_without_its_name_the_refusal_says_what_to_start_with(http: httpx.Client) -> None:
    answer = http.get("/api/state", headers={"host": "hub.example.org"})
    assert (answer.status_code, answer.json()["error"]["fix"]) == (
        403,
        "start it with --behind https://hub.example.org/ if that address leads here",
    )
    written = http.post("/api/intents/undo", json={}, headers={"origin": "https://a-8765.app.github.dev"})
    assert (written.status_code, written.json()["error"]["type"]) == (403, "ForeignHost")
    assert "--behind https://a-8765.app.github.dev/" in written.json()["error"]["fix"]
    read = http.get("/", headers={"host": "<b>hub</b>", "accept": "text/html"})
    assert read.status_code == 403
    assert "<b>" not in read.text


def test_only_what_was_named_is_let_in() -> None:
    known = Addresses(behind=[Forwarder.parse(HUB), Forwarder.parse("https://a-8765.app.github.dev")])
    for host, origin in [
        ("hub.example.org", "https://hub.example.org"), ("HUB.example.org", None), ("127.0.0.1:8765", "https://hub.example.org"),
        ("localhost:1", "http://localhost:1"), ("localhost:8765", "https://a-8765.app.github.dev"),
    ]:  # fmt: skip
        known.check(host, origin, writes=True)
    for host, origin in [
        ("hub.example.org", "http://hub.example.org"), ("hub.example.org:80", None), ("example.org", None),
        ("hub.example.org.evil", None), ("127.0.0.1:8765", "https://example.org"), ("hub.example.org", "null"), ("", None),
        ("127.0.0.1:8765", "http://127.0.0.1:1"), ("10.0.0.7:8765", None),
    ]:  # fmt: skip
        with pytest.raises(ForeignHost):
            known.check(host, origin, writes=True)


def test_on_a_network_numbers_and_own_names_are_let_in_and_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Gpu-1")
    monkeypatch.setattr("socket.getfqdn", lambda: "gpu-1.lab.example.org")
    known = Addresses(network=True)
    for host in ("10.0.0.7:8765", "[fe80::1]:8765", "gpu-1:8765", "GPU-1.lab.example.org", "localhost:1"):
        known.check(host, f"http://{host}", writes=True)
    for host in (
        "evil.example:8765",
        "gpu-1.evil.example",
        "10.0.0.7.evil.example",
        "10.0.0.7@evil",
        "x y",
        "10.0.0.999",
    ):
        with pytest.raises(ForeignHost):
            known.check(host, None, writes=False)
    with pytest.raises(ForeignHost):
        known.check("10.0.0.7:8765", "http://10.0.0.8:8765", writes=True)


def test_a_server_on_the_network_answers_there_to_the_token_alone(tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    with worlds.session() as session, Server(session, host="0.0.0.0", port=0, page=tmp_path) as server:
        assert server.exposed
        base = f"http://127.0.0.2:{server.port}/"  # another address of this machine's, in numbers
        assert httpx.get(f"{base}api/state").status_code == 401
        held = {"authorization": f"Bearer {server.token}"}
        assert httpx.get(f"{base}api/state", headers=held).status_code == 200
        assert httpx.get(f"{base}api/state", headers={**held, "host": "evil.example"}).status_code == 403
    bind("127.0.0.2", 0)[0].close()


@pytest.mark.parametrize("host", ["192.0.2.7", "no.such.host.invalid", "", "a b", "2001:db8::7"])
def test_an_address_of_another_machine_is_refused_before_anything_starts(host: str) -> None:
    with pytest.raises(BadAddress, match="no such address"):
        bind(host, 0)


@pytest.mark.parametrize(
    "text", ["hub.example.org", "ftp://x/", "https://", "https://a:b@x/", "https://x/?a=1", "https://x/#a", "https://x:a/",
             "https://x y/", "https://x/ y", "https://x;y/", ""],
)  # fmt: skip
def test_what_is_no_forwarder_is_refused_in_the_command_s_words(text: str) -> None:
    from residscope.cli.app import app

    with pytest.raises(BadAddress, match="no address of a forwarder"):
        Forwarder.parse(text)
    told = CliRunner().invoke(app, ["open", "--no-browser", "--port", "0", "--behind", text])
    assert told.exit_code != 0


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{1,6}){0,2}", fullmatch=True)
PATHS = st.lists(
    st.from_regex(r"[A-Za-z0-9_.~-]{1,6}", fullmatch=True).filter(lambda p: p not in (".", "..")), max_size=3
)


@given(NAMES, st.sampled_from(["http", "https"]), st.none() | st.integers(1, 65535), PATHS, st.booleans())
def test_a_forwarder_is_known_by_what_a_browser_sends(
    name: str, scheme: str, port: int | None, path: list[str], closed: bool
) -> None:
    """Against the address rules of httpx, which knows nothing of ours."""
    text = f"{scheme}://{name}{'' if port is None else f':{port}'}/{'/'.join(path)}{'/' if closed and path else ''}"
    found, url = Forwarder.parse(text), httpx.URL(text)
    host = url.netloc.decode()
    assert (found.host, found.origin) == (host, f"{scheme}://{host}")
    assert found.path == url.path.rstrip("/") + "/"
    known = Addresses(behind=[found])
    known.check(host, f"{scheme}://{host}", writes=True)
    assert known.stripped(f"{found.path}api/state") == "/api/state"
    assert known.cookie(Headers({"host": host})) == {"path": found.path, "secure": scheme == "https"}
