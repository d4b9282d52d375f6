"""The library's addresses of 0.1, for scripts: each is an intent or a query under another name, and its answer alone."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from residscope.declare import reasons
from residscope.errors import WireError
from residscope.server.library import Find
from residscope.server.parse import parse_json
from residscope.store import Library

FILE = "application/octet-stream"
ROUTES = (
    ("GET", "me", "library_me"), ("POST", "me", "library_sign_in"), ("DELETE", "me", "library_sign_out"),
    ("GET", "directions", "library_search"), ("POST", "directions", "library_save"), ("POST", "import", "library_import"),
    ("GET", "directions/{id}", "library_read"), ("PATCH", "directions/{id}", "library_rename"),
    ("DELETE", "directions/{id}", "library_delete"), ("POST", "directions/{id}/open", "library_open"),
    ("POST", "directions/{id}/descriptions", "library_describe"), ("PATCH", "descriptions/{id}", "library_edit_description"),
    ("DELETE", "descriptions/{id}", "library_delete_description"), ("PUT", "descriptions/{id}/vote", "library_vote"),
    ("POST", "directions/{id}/comments", "library_comment"), ("DELETE", "comments/{id}", "library_delete_comment"),
    ("POST", "undo", "library_undo"),
)  # fmt: skip
Ask = Callable[[Request, str, Any], Awaitable[Response]]
"""Answers the intent or query of a name for whoever sent the request."""


def library_routes(library: Library, ask: Ask) -> APIRouter:
    router = APIRouter(prefix="/api/library")
    for method, path, name in ROUTES:
        router.add_api_route(f"/{path}", _route(name, ask), methods=[method], response_model=None)

    @router.get("/directions/{id}/file", response_model=None)
    async def file(id: str) -> Response:
        found = await run_in_threadpool(library.send, id)
        disposition = f'attachment; filename="direction-{library.get(id).entry.id}.safetensors"'
        return Response(found, media_type=FILE, headers={"content-disposition": disposition})

    return router


def _route(name: str, ask: Ask) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        return await ask(request, name, await _args(request, name))

    return route


async def _args(request: Request, name: str) -> Any:
    if name == "library_search":
        return _asked(request)
    if name == "library_import":
        return {**request.query_params, "data": await request.body()}
    body = {} if request.method == "GET" else parse_json(await request.body() or b"{}")
    return {**body, **request.path_params} if isinstance(body, dict) else body


def _asked(request: Request) -> dict[str, Any]:
    """What is looked for, out of the address, where numbers are text."""
    try:
        return Find.model_validate(dict(request.query_params), strict=False).model_dump()
    except ValidationError as error:
        found = f"the request does not parse: {reasons(error)}"
        raise WireError(found, received=str(request.url.query)) from None
