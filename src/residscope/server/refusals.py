"""The one error shape, and which status each error has."""

import base64
import hashlib
import html
import math
from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse, JSONResponse, Response

from residscope import errors
from residscope.errors import ResidscopeError

STATUS: dict[type[ResidscopeError], int] = {
    errors.NotAllowed: 401,
    errors.ForeignHost: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.MalformedJSON: 400,
    errors.MalformedTensors: 400,
    errors.NoUser: 403,
    errors.NotYours: 403,
    errors.OwnersAlone: 403,
    errors.NameTaken: 409,
    errors.EditedSince: 409,
    errors.CannotUndo: 409,
    errors.TooFast: 429,
    errors.Busy: 429,
    errors.DamagedStore: 500,
    errors.StoreUnreachable: 503,
    errors.NoPage: 503,
    errors.Offline: 503,
}


def status_of(error: ResidscopeError) -> int:
    return STATUS.get(type(error), 422 if type(error) is not ResidscopeError else 500)


def body_of(error: ResidscopeError) -> dict[str, Any]:
    return {"error": error.to_dict()}


def refuse(error: ResidscopeError, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """The refusal as JSON; as a page to read where a browser goes to an address, by its headers."""
    status = status or status_of(error)
    if (headers or {}).get("sec-fetch-dest") == "document" or "text/html" in (headers or {}).get("accept", ""):
        policy = {"content-security-policy": PAGE_POLICY}
        return HTMLResponse(_page(error), status_code=status, headers=policy | _later(error))
    return JSONResponse(body_of(error), status_code=status, headers=_later(error))


def _later(error: ResidscopeError) -> dict[str, str]:
    """When to come back, in whole seconds, of what is too much now."""
    return {"retry-after": str(math.ceil(error.seconds))} if isinstance(error, errors.Busy | errors.TooFast) else {}


STYLE = (
    ":root { color-scheme: light dark } "
    "body { font: 15px/1.5 system-ui, sans-serif; max-width: 34em; margin: 18vh auto 0; padding: 0 24px; "
    "color: light-dark(#1a1b1e, #eceef0); background: light-dark(#ffffff, #15181b); overflow-wrap: anywhere } "
    "h1 { font-size: 20px; font-weight: 600 } p { color: light-dark(#4e5157, #b3b9c0) }"
)
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _page(error: ResidscopeError) -> str:
    """What a person reads in place of the page."""
    said = [
        (f"{label}{text.rstrip('.')}.") for label, text in (("Received: ", error.received), ("", error.fix)) if text
    ]
    lines = "".join(f"<p>{html.escape(line[0].upper() + line[1:])}</p>" for line in said)
    title = html.escape(error.failed[0].upper() + error.failed[1:])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Residscope</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{lines}"
    )


def internal(error: Exception) -> ResidscopeError:
    """A mistake of ours, in the shape of the rest."""
    return ResidscopeError(f"Residscope failed: {type(error).__name__}: {error}", fix="please report this")
