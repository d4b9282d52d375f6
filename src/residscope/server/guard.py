"""Who may come in: this machine, under this server's name, with the token; and what every answer carries."""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse

from residscope.errors import ForeignHost, MalformedJSON, NotAllowed, ResidscopeError
from residscope.server.refusals import body_of, internal, refuse, status_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
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

    Host names are an allow-list (against DNS rebinding); any port will do, since a forwarded port is another one.
    Origin, where a browser sends it, must be this very host and port: a page of another local server is a stranger.
    The printed link's token lets in once it is asked for, and is another each time the server is started; the `key` in the cookie
    that it is traded for may stay.
    """

    def __init__(self, app: App, *, token: str, key: str, cookie: str) -> None:
        self._app, self._token, self._key, self._cookie = app, token, key, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send, headers)
        try:
            _check_names(scope, headers)
            if _is_invitation(scope):
                await self._invite(scope, receive, send, headers)
                return
            self._check_token(headers)
        except ResidscopeError as error:
            await _refuse(error, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await _limited(self._app, scope, receive, send, headers)

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            self._same(given.strip(), self._token)
        else:
            self._same(cookie_in(headers, self._cookie).strip(), self._key)

    def _same(self, given: str, wanted: str) -> None:
        if not secrets.compare_digest(given.encode(), wanted.encode()):
            raise NotAllowed(
                "this page needs the token of this server" if not given else "that is not the token of this server",
                allowed="the cookie that the printed link sets, or an Authorization header: Bearer TOKEN",
                fix="open the link that residscope open printed where it was started; it holds the token",
            )

    async def _invite(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """The printed link: trade the token for a cookie, and take it out of the address; what else it asks for stays.

        A link of before serves whoever is in already.
        """
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        given = asked.pop("token", [""])[0]
        if not secrets.compare_digest(cookie_in(headers, self._cookie).encode(), self._key.encode()):
            self._same(given, self._token)
        answer = RedirectResponse("./" + (f"?{urlencode(asked, doseq=True)}" if asked else ""), status_code=303)
        answer.set_cookie(self._cookie, self._key, httponly=True, samesite="strict", path="/")
        await answer(scope, receive, send)


def policy(host: str) -> str:
    """The page loads from, and talks to, this server alone."""
    return (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host}; object-src 'none'; base-uri 'self'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _check_names(scope: Scope, headers: Headers) -> None:
    host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site", "none")
    if len(headers.getlist("host")) != 1 or not HOST.fullmatch(host):
        raise ForeignHost("this is not that server", received=host or "no Host", allowed="127.0.0.1, localhost, [::1]")
    writes = scope["type"] == "websocket" or scope["method"] not in SAFE
    if origin is not None and origin.lower() != f"http://{host.lower()}" and (writes or origin != "null"):
        raise ForeignHost("the request comes from another page", received=origin, allowed=f"http://{host}")
    if site not in OWN_SITE and (writes or scope["path"].startswith("/api/")):
        raise ForeignHost("the request comes from another site's page", received=f"Sec-Fetch-Site: {site}")


def _is_invitation(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and scope["path"] == "/"
        and b"token=" in scope["query_string"]
    )


def cookie_in(headers: Headers, name: str) -> str:
    """A cookie's value, or nothing."""
    for line in headers.getlist("cookie"):
        try:
            found = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


def _with_headers(send: Send, headers: Headers) -> Send:
    host = headers.get("host", "")
    csp = policy(host if HOST.fullmatch(host) else "127.0.0.1")

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
