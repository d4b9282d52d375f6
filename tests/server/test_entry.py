"""Who comes in by which link, with which cookies beside its own, and what others can read of it."""

import stat
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from residscope import errors, written
from residscope.errors.base import MOST
from residscope.server import Server
from residscope.store import open_library
from server.entering import secret_of

OTHERS = ('prefs={"theme":"dark"}', "x", "name=José", 'a="b; c"', "=", "b=c=d", "{}=[]", "\\x")


def entered(server: Server, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=server.base) as http:
        return http.get("/", params={"token": server.token}, headers=headers)


def test_the_cookie_alone_which_every_server_on_this_machine_is_sent_opens_nothing(server: Server) -> None:
    invited = entered(server)
    key, page = invited.headers["set-cookie"].partition(";")[0], secret_of(invited)
    ws = server.base.replace("http", "ws") + "ws"
    with httpx.Client(base_url=server.base, headers={"cookie": key}) as http:
        assert http.get("/").status_code == 200  # the page itself holds nothing
        assert http.get("/assets/app.js").status_code == 200
        for given in ({}, {"page": ""}, {"page": "x"}, {"page": key.partition("=")[2]}, {"page": server.token}):
            assert http.get("/api/state", params=given).status_code == 401
            assert http.get("/api/items/file", params={**given, "name": "x", "ending": ".csv"}).status_code == 401
            assert http.post("/api/intents/undo", params=given, json={}).status_code == 401
            with pytest.raises(InvalidStatus, match="401"):
                connect(f"{ws}?{urlencode(given)}", additional_headers={"cookie": key})
        assert http.get("/api/state", params={"page": page}).status_code == 200
        assert http.get("/api/state", headers={"x-residscope-page": page}).status_code == 200
        with connect(f"{ws}?page={page}", additional_headers={"cookie": key}):
            pass
    with httpx.Client(base_url=server.base) as http:  # nor does the other half
        assert http.get("/api/state", params={"page": page}).status_code == 401
    assert page not in key
    assert server.token not in (page, key.partition("=")[2])


@pytest.mark.parametrize("other", OTHERS)
def test_other_servers_cookies_do_not_shut_the_owner_out(server: Server, other: str) -> None:
    invited = entered(server)
    key, page = invited.headers["set-cookie"].partition(";")[0], secret_of(invited)
    with httpx.Client(base_url=server.base) as http:
        for line in (f"{other}; {key}", f"{key}; {other}", f"{other}; {key}; {other}"):
            assert (
                http.get("/api/state", params={"page": page}, headers={b"cookie": line.encode()}).status_code == 200
            ), line
        assert http.get("/api/state", headers={b"cookie": other.encode()}).status_code == 401


def test_a_link_on_another_sites_page_is_entered_by_a_page_of_ours(server: Server) -> None:
    """A strict cookie is not sent along a redirect that another site began."""
    answer = entered(server, **{"sec-fetch-site": "cross-site", "sec-fetch-dest": "document", "accept": "text/html"})
    assert answer.status_code == 200
    assert "set-cookie" in answer.headers
    assert 'http-equiv="refresh" content="0;url=./?page=' in answer.text
    assert server.token not in answer.text
    assert entered(server, **{"sec-fetch-site": "none"}).status_code == 303


def test_the_browser_is_handed_a_link_that_works_once(server: Server, tmp_path: Path) -> None:
    page = server.hand_over(tmp_path)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    text = page.read_text()
    assert server.token not in text
    link = text.partition("url=")[2].partition('"')[0]
    with httpx.Client() as http:
        assert http.get(link).status_code == 303
    with httpx.Client() as http:
        assert http.get(link).status_code == 401
    other = server.hand_over(tmp_path).read_text().partition("url=")[2].partition('"')[0]
    assert other != link


def test_a_refusal_is_no_larger_than_what_it_refuses(server: Server) -> None:
    huge = "t" * 60_000
    with httpx.Client(base_url=server.base) as http:
        answer = http.get("/api/state", headers={"authorization": f"Bearer {huge}"})
    assert answer.status_code in (401, 431)
    assert len(answer.content) < 4 * MOST
    assert len(str(errors.ResidscopeError("no", received="x" * 10_000_000))) < 2 * MOST


def test_a_new_library_is_its_owner_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    open_library(folder=folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.glob("library.db*")} == {0}


@pytest.mark.parametrize("blank", [0x3164, 0x115F, 0x2800, 0x034F, 0xFFA0, 0x17B4, 0x180B, 0x1160, 0x2065])
def test_a_name_with_a_sign_that_shows_nothing_is_nobody_else_s(blank: int) -> None:
    for name in (f"ada{chr(blank)}", f"{chr(blank)}ada", f"a{chr(blank)}da"):
        assert written.key(name) == written.key("ada")
        with pytest.raises(errors.BadText, match=f"U\\+{blank:04X}"):
            written.name_of(name)
