"""Who may come in: this machine, under this server's name, with the token; and what every answer carries."""

import html
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response

from residscope.errors import ForeignHost, MalformedJSON, NotAllowed, ResidscopeError
from residscope.server.addresses import Addresses
from residscope.server.refusals import body_of, internal, refuse, status_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
PAGE_HEADER = "x-residscope-page"
Client = tuple[str, int] | None
"""The other end of a connection: its address and port."""

_log = logging.getLogger(__name__)
SAFE = ("GET", "HEAD", "OPTIONS")
OWN_SITE = ("same-origin", "none")
JSON_BYTES = 2 << 20
TENSOR_BYTES = 16 << 20
ITEM_BYTES = 512 << 20  # a dictionary of tens of thousands of features
TENSOR_PATHS = (
    "/api/intents/import_direction",
    "/api/intents/library_import",
    "/api/library/import",
)
ITEM_PATH = "/api/intents/import_item"


class BodyTooLargeError(Exception):
    """The body is over its limit."""


class Guard:
    """ASGI middleware around everything, so that no route can forget it.

    Host names are an allow-list (against DNS rebinding). Origin, where a browser sends it, must be this very host and port,
    or a forwarder's that was named: a page of another local server is a stranger. `Addresses` knows both.
    The printed link's token lets in once it is asked for, and is another each time the server is started; what it is traded for
    may stay: the `key` in the cookie, and the secret of the `page`, which it is told in its address and keeps.
    once: tokens that let in a single time, as the browser's own is. known: told of each connection that is let in.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str,
        key: str,
        page: str,
        cookie: str,
        addresses: Addresses,
        once: set[str] | None = None,
        known: Callable[[Client], None] = lambda client: None,
    ) -> None:
        self._app, self._token, self._key, self._page = app, token, key, page
        self._cookie, self._addresses = cookie, addresses
        self._once, self._known = set() if once is None else once, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = self._with_headers(send, headers)
        if (path := self._addresses.stripped(scope["path"])) != scope["path"]:
            scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        try:
            self._check_names(scope, headers)
            if _is_invitation(scope):
                await self._invite(scope, receive, send, headers)
                return
            self._check_token(scope, headers)
            self._known(scope.get("client"))
        except ResidscopeError as error:
            await _refuse(error, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await _limited(self._app, scope, receive, send, headers)

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        hosts, origin, site = headers.getlist("host"), headers.get("origin"), headers.get("sec-fetch-site", "none")
        writes = scope["type"] == "websocket" or scope["method"] not in SAFE
        self._addresses.check(hosts[0] if len(hosts) == 1 else "", origin, writes=writes)
        if site not in OWN_SITE and (writes or scope["path"].startswith("/api/")):
            raise ForeignHost("the request comes from another site's page", received=f"Sec-Fetch-Site: {site}")

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        """A script has the token. A browser has the cookie, which it sends to whatever listens on this machine; and for what is
        more than the page itself, what only the page was told.
        """
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            self._same(given.strip(), self._token)
            return
        self._same(cookie_in(headers, self._cookie).strip(), self._key)
        if scope["type"] == "websocket" or scope["path"].startswith("/api/"):
            asked = parse_qs(scope["query_string"].decode("latin-1"))
            self._same(headers.get(PAGE_HEADER) or asked.get("page", [""])[0], self._page)

    def _same(self, given: str, wanted: str) -> None:
        if not secrets.compare_digest(given.encode(), wanted.encode()):
            raise NotAllowed(
                "this page needs the token of this server" if not given else "that is not the token of this server",
                allowed="what the printed link gives a browser, or an Authorization header: Bearer TOKEN",
                fix="open the link that residscope open printed where it was started; it holds the token",
            )

    def _with_headers(self, send: Send, headers: Headers) -> Send:
        csp = policy(self._addresses.sockets(headers.get("host", "")))

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                out = MutableHeaders(scope=message)
                out.setdefault("content-security-policy", csp)
                out["x-content-type-options"] = "nosniff"
                out["referrer-policy"] = "no-referrer"
                out["cross-origin-resource-policy"] = "same-origin"
                out["cross-origin-opener-policy"] = "same-origin"
                out["x-frame-options"] = "DENY"
                out.setdefault("cache-control", "no-store")
            await send(message)

        return sending

    async def _invite(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """The printed link: trade the token for a cookie, and take it out of the address; what else it asks for stays.

        A link of before serves whoever is in already. `by`: the number of the forwarder that the link is for.
        """
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        given, number = asked.pop("token", [""])[0], asked.pop("by", [None])[0]
        known = secrets.compare_digest(cookie_in(headers, self._cookie).encode(), self._key.encode())
        if given in self._once:
            self._once.discard(given)
        elif not known:
            self._same(given, self._token)
        answer = _onward(f"./?{urlencode({**asked, 'page': self._page}, doseq=True)}", headers)
        kept = self._addresses.cookie(headers, number)
        answer.set_cookie(self._cookie, self._key, httponly=True, samesite="strict", **kept)
        await answer(scope, receive, send)


def _onward(address: str, headers: Headers) -> Response:
    """To the page itself. A browser that came by a link on another site's page keeps a strict cookie back as long as it is sent
    on from there: it gets a page of ours instead, which goes on by itself.
    """
    if headers.get("sec-fetch-site", "none") in OWN_SITE:
        return RedirectResponse(address, status_code=303)
    where = html.escape(address, quote=True)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Residscope</title>'
        f'<meta http-equiv="refresh" content="0;url={where}"><p><a href="{where}">Open Residscope</a></p>'
    )
    return HTMLResponse(page)


def policy(sockets: str) -> str:
    """The page loads from, and talks to, this server alone."""
    return (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {sockets}; object-src 'none'; base-uri 'self'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _is_invitation(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and scope["path"] == "/"
        and b"token=" in scope["query_string"]
    )


def cookie_in(headers: Headers, name: str) -> str:
    """A cookie's value, or nothing. A browser sends those of every server on this machine in one line, whatever is in them."""
    for line in headers.getlist("cookie"):
        for pair in line.split(";"):
            own, _, value = pair.strip().partition("=")
            if own == name:
                return value.strip('"')
    return ""


async def _limited(app: App, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
    """Refuse a body over the limit by its announced length, or as soon as more has come."""
    path = scope["path"]
    limit = ITEM_BYTES if path == ITEM_PATH else TENSOR_BYTES if path in TENSOR_PATHS else JSON_BYTES
    announced = headers.get("content-length", "0")
    too_large = MalformedJSON("the request is too large", allowed=f"up to {limit} bytes")
    if not announced.isdigit() or int(announced) > limit:
        await refuse(too_large, status=413)(scope, receive, send)
        return
    came = 0
    started = False

    async def receiving() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > limit:
            raise BodyTooLargeError
        return message

    async def sending(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receiving, sending)
    except BodyTooLargeError:
        if not started:
            await refuse(too_large, status=413)(scope, receive, send)
    except Exception as error:
        _log.exception("a request failed")
        if not started:
            await refuse(internal(error), status=500)(scope, receive, send)


async def _refuse(error: ResidscopeError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refuse(error, headers=Headers(scope=scope))(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        answer = refuse(error)
        headers = [(name, value) for name, value in answer.raw_headers]
        await send({"type": "websocket.http.response.start", "status": status_of(error), "headers": headers})
        await send({"type": "websocket.http.response.body", "body": answer.body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": body_of(error)["error"]["type"]})
