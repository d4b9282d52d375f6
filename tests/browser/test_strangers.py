"""Pages of strangers in the browser that has a session open: of another port or site, a frame, a form, a mail, another name."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserType, Page, Response, Route, expect

from browser.steps import SERVED, settled
from residscope.server import Server
from residscope.server.routes import NAMES
from residscope.session.intents import INTENTS
from residscope.store import open_library
from residscope.world import loaded
from session import worlds

pytestmark = pytest.mark.browser
BODY = {"text": "stolen", "name": "stolen", "edits": [], "to": "stolen"}
CHANGING = [f"api/intents/{name}" for name in INTENTS]
CHANGING += [f"api/library/{path.replace('{id}', '1')}" for method, path, _ in NAMES if method == "POST"]


@dataclass
class Stranger:
    """Another server on this machine, at two names: of the same site as the workbench, and of another."""

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Paths, and the cookies that came with them."""

    def at(self, path: str = "", *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    library = open_library(folder=tmp_path_factory.mktemp("library"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "shipped", worlds.components)
        with worlds.session(folder=tmp_path_factory.mktemp("data")) as session:
            session.intent("set_prompt", {"text": "a secret prompt"})
            session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.1", "head": 1}]})
            session.intent("save_prompt", {"text": "kept"})
            with Server(session, port=0, library=library) as server:
                SERVED[f":{server.port}/"] = session
                yield server
                del SERVED[f":{server.port}/"]


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.asked.append((self.path, self.headers.get("cookie", "")))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>a stranger</title><body>")

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("", 0), Answer) as http:
        one = Stranger(http.server_address[1])
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield one
        http.shutdown()


@pytest.fixture(scope="module")
def owner(browser: Browser, served: Server) -> Iterator[Page]:
    """Whose browser has the workbench open."""
    page = browser.new_context().new_page()
    page.goto(served.url)
    settled(page)
    yield page
    page.context.close()


@pytest.fixture
def nothing_changes(served: Server) -> Iterator[None]:
    before = stands(served)
    yield
    assert stands(served) == before


def stands(server: Server) -> dict[str, Any]:
    """All that a stranger could change, but for who has the page open."""
    assert server.session.wait(60)
    state = server.session.snapshot()[1]
    assert state["prompt"]["text"] == "a secret prompt"
    return {part: value for part, value in state.items() if part != "present"}


def visit(owner: Page, stranger: Stranger, host: str) -> Page:
    page = owner.context.new_page()
    page.goto(stranger.at(host=host))
    return page


SITES = pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another site"])


@SITES
def test_another_page_reads_nothing(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None, host: str
) -> None:
    page = visit(owner, stranger, host)
    if host == "127.0.0.1":
        assert f"residscope-{served.port}=" in stranger.asked[-1][1], (
            "the control: the browser sends the cookie to any port"
        )
    got = page.evaluate(
        """async ([base, paths]) => {
          const got = {};
          for (const path of paths) for (const mode of ["cors", "no-cors"])
            got[`${mode} ${path}`] = await fetch(base + path, { mode, credentials: "include" })
              .then(async (answer) => (await answer.text()) || answer.type, () => "refused");
          const load = (tag, set) => new Promise((done) => {
            const one = document.createElement(tag);
            [one.onload, one.onerror] = [() => done("loaded"), () => done("refused")];
            set(one);
            document.body.append(one);
          });
          got.script = await load("script", (one) => (one.src = base + "api/state"));
          got.page = await load("script", (one) => (one.src = base));
          got.img = await load("img", (one) => (one.src = base + "api/state"));
          got.style = await load("link", (one) => Object.assign(one, { rel: "stylesheet", href: base + "api/state" }));
          for (const address of ["ws", "ws?page=", "ws?page=guess"])
            got[address] = await new Promise((done) => {
              const socket = new WebSocket(base.replace("http", "ws") + address);
              socket.onopen = () => done("open");
              socket.onerror = () => done("refused");
            });
          return got;
        }""",
        [
            served.base,
            ["", "api/state", "api/library/directions", "api/items/file?name=kept&ending=.csv", "assets/nothing.js"],
        ],
    )
    assert {*got.values()} <= {"refused", "opaque"}, got
    page.close()


@pytest.mark.parametrize(
    ("host", "paths"), [("127.0.0.1", CHANGING), ("localhost", CHANGING[-3:])], ids=["another port", "another site"]
)
def test_another_page_s_forms_and_requests_change_nothing(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None, host: str, paths: list[str]
) -> None:
    page = visit(owner, stranger, host)
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if answer.request.method == "POST" else None)
    page.evaluate(
        """async ([base, paths, body]) => {
          const sent = (path, enctype) => new Promise((done) => {
            const [frame, form, said] = ["iframe", "form", "input"].map((tag) => document.createElement(tag));
            frame.name = `${path} ${enctype}`;
            Object.assign(form, { method: "POST", action: base + path, enctype, target: frame.name });
            if (enctype === "text/plain") [said.name, said.value] = [JSON.stringify(body).slice(0, -1) + ', "x": "', '"}'];
            else [said.name, said.value] = ["text", body.text];
            form.append(said);
            document.body.append(frame, form);
            frame.onload = () => (frame.remove(), form.remove(), done());
            form.submit();
          });
          const fetched = (path, type, mode) => {
            const options = { method: "POST", mode, credentials: "include", headers: { "content-type": type } };
            return fetch(base + path, { ...options, body: JSON.stringify(body) }).catch(() => null);
          };
          for (let i = 0; i < paths.length; i += 8)
            await Promise.all(paths.slice(i, i + 8).flatMap((path) => [
              ...["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"].map((enctype) => sent(path, enctype)),
              fetched(path, "text/plain", "no-cors"), fetched(path, "application/json", "cors"),
            ]));
          navigator.sendBeacon(base + paths[0], JSON.stringify(body));
        }""",
        [served.base, paths, BODY],
    )
    page.wait_for_timeout(200)
    assert {answer.status for answer in answers} == {403}
    kinds = [(answer.url, answer.request.headers["content-type"].split(";")[0]) for answer in answers]
    for path in paths:
        enctypes = {kind for url, kind in kinds if url == served.base + path}
        assert enctypes == {"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}, (
            "the control: all were sent"
        )
    page.close()


def test_the_control_the_same_request_from_the_page_itself_changes_something(owner: Page, served: Server) -> None:
    status = owner.evaluate(
        """(body) => fetch("api/intents/save_prompt", { method: "POST", body: JSON.stringify(body),
             headers: { "content-type": "application/json", "x-residscope-page": localStorage.getItem("residscope-page:/") } })
             .then((answer) => answer.status)""",
        {"text": "stolen"},
    )
    assert status == 200
    assert [entry["text"] for entry in served.session.snapshot()[1]["saved"]] == ["kept", "stolen"]
    served.session.intent("forget_prompt", {"text": "stolen"})


@pytest.mark.parametrize(
    ("kept", "shown"),
    [({"csp", "frame"}, False), ({"csp"}, False), ({"frame"}, False), (set(), True)],
    ids=["as it is", "its policy alone", "X-Frame-Options alone", "neither, the control"],
)
def test_no_frame_shows_the_page(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None, kept: set[str], shown: bool
) -> None:
    page = visit(owner, stranger, "127.0.0.1")
    statuses: list[int] = []

    def without(route: Route) -> None:
        answer = route.fetch()
        statuses.append(answer.status)
        headers = {
            name: value for name, value in answer.headers.items() if name != "x-frame-options" or "frame" in kept
        }
        if "csp" not in kept:
            del headers["content-security-policy"]
        route.fulfill(response=answer, headers=headers)

    page.route(served.base, without)
    with page.expect_event("framenavigated"):
        page.evaluate(
            "(base) => { const one = document.createElement('iframe'); one.src = base; document.body.append(one); }",
            served.base,
        )
    page.wait_for_timeout(300)
    assert statuses == [200], "it is the frame that is refused: the browser may have the page"
    (frame,) = page.frames[1:]
    assert frame.url.split("#")[0] == (served.base if shown else "chrome-error://chromewebdata/")
    page.close()


@SITES
def test_a_page_that_opens_the_workbench_has_no_hold_of_it(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None, host: str
) -> None:
    page = visit(owner, stranger, host)
    with page.expect_popup() as popup:
        page.evaluate("(base) => { window.held = window.open(base + '#tab=stream'); }", served.base)
    popup.value.wait_for_load_state()
    popup.value.wait_for_timeout(300)
    held = page.evaluate(
        """(base) => {
          const message = { intent: "set_prompt", args: { text: "stolen" }, id: 1, hello: true };
          try { window.held.postMessage(message, "*"); window.held.postMessage(JSON.stringify(message), base); } catch { }
          let read = "nothing";
          try { read = window.held.document.body.innerText; } catch { }
          return { closed: window.held.closed, read };
        }""",
        served.base,
    )
    assert held["read"] == "nothing" or held == {"closed": True, "read": ""}
    if host == "127.0.0.1":
        assert held["closed"], "Cross-Origin-Opener-Policy cuts it off"
    assert popup.value.evaluate("window.opener") is None
    popup.value.close()
    page.close()


def test_a_link_in_a_mail_reads_and_changes_nothing(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None
) -> None:
    """Of another site, and with no Referer."""
    page = visit(owner, stranger, "localhost")
    for path in ("", "api/state", "api/intents/undo", "api/library/directions", "ws", "?token=guess", "nowhere"):
        page.goto(stranger.at(host="localhost"))
        page.set_content(f'<a rel="noreferrer" href="{served.base}{path}">the paper we spoke of</a>')
        with page.expect_navigation() as navigation:
            page.click("a")
        answer = navigation.value
        assert answer is not None
        assert "referer" not in answer.request.all_headers()
        assert answer.status in (401, 403, 404)
        assert "secret prompt" not in page.content()
    page.close()


def test_a_link_with_a_state_asks_before_it_takes_the_place_of_anything(
    owner: Page, served: Server, stranger: Stranger, nothing_changes: None
) -> None:
    """From another port the browser sends the cookie, and the page opens: with a question."""
    held = {"model": "m", "hash": "h", "prompt": "stolen", "bos": False, "metric": None, "edits": [], "probes": []}
    page = visit(owner, stranger, "127.0.0.1")
    page.set_content(f'<a href="{served.base}#share={quote(json.dumps(held))}">the paper we spoke of</a>')
    page.click("a")
    expect(page.get_by_test_id("link-prompt")).to_have_text("stolen", timeout=20_000)
    assert served.session.state.prompt.text == "a secret prompt"
    page.get_by_test_id("link-keep").click()
    settled(page)
    page.close()


def test_another_name_that_leads_here_is_another_server(
    browser_type: BrowserType, browser_type_launch_args: dict[str, Any], served: Server, nothing_changes: None
) -> None:
    """A name of a stranger's that was bound to 127.0.0.1, even with the token."""
    options = {
        **browser_type_launch_args,
        "args": [*browser_type_launch_args["args"], "--host-resolver-rules=MAP evil.example 127.0.0.1"],
    }
    rebound: Browser = browser_type.launch(**options)
    page = rebound.new_page()
    for path in ("", f"?token={served.token}", "api/state"):
        answer = page.goto(f"http://evil.example:{served.port}/{path}")
        assert answer is not None
        assert answer.status == 403
        assert "secret prompt" not in page.content()
    told = page.evaluate(
        """(token) => Promise.all([["GET", "api/state"], ["POST", "api/intents/undo"]].map(([method, path]) =>
             fetch("/" + path, { method, headers: { authorization: `Bearer ${token}` } })
               .then((answer) => answer.status, () => "refused")))""",
        served.token,
    )
    assert {*told} <= {403, "refused"}
    rebound.close()
