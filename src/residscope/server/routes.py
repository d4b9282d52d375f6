"""The routes: docs/wire.md over HTTP, and the library's addresses of 0.1, for scripts.

They find what they answer from by their app (`served`): FastAPI keeps every function that it has routed to for as long as the
process lives, and with it all that the function closes over.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError

from residscope.declare import reasons
from residscope.errors import NoPage, WireError
from residscope.server.library import Find
from residscope.server.parse import arguments, parse_json
from residscope.server.served import TENSORS, served
from residscope.server.sockets import talk

ROUTES = APIRouter()
LIBRARY = APIRouter(prefix="/api/library")
"""Each is an intent or a query under another name, and its answer alone."""
NAMES = (
    ("GET", "me", "library_me"), ("POST", "me", "library_sign_in"), ("DELETE", "me", "library_sign_out"),
    ("GET", "directions", "library_search"), ("POST", "directions", "library_save"), ("POST", "import", "library_import"),
    ("GET", "directions/{id}", "library_read"), ("PATCH", "directions/{id}", "library_rename"),
    ("DELETE", "directions/{id}", "library_delete"), ("POST", "directions/{id}/open", "library_open"),
    ("POST", "directions/{id}/descriptions", "library_describe"), ("PATCH", "descriptions/{id}", "library_edit_description"),
    ("DELETE", "descriptions/{id}", "library_delete_description"), ("PUT", "descriptions/{id}/vote", "library_vote"),
    ("POST", "directions/{id}/comments", "library_comment"), ("DELETE", "comments/{id}", "library_delete_comment"),
    ("POST", "undo", "library_undo"),
)  # fmt: skip


@ROUTES.get("/", response_model=None)
def index(request: Request) -> Response:
    page = served(request).page
    if not (page / "index.html").is_file():
        raise NoPage(
            "the page is not built into this installation",
            received=str(page / "index.html"),
            fix="in a checkout: make ui, or pip install -e . again with Node 20.19 or newer",
        )
    return FileResponse(page / "index.html", headers={"cache-control": "no-cache"})


@ROUTES.get("/api/state")
async def state(request: Request) -> JSONResponse:
    seq, wire = served(request).session.snapshot()
    return JSONResponse({"seq": seq, "state": wire})


@ROUTES.post("/api/intents/{name}")
async def intent(name: str, request: Request) -> Response:
    args, here = await arguments(request), served(request)
    return await here.ask(request, name, lambda who, gone: {"ok": True, "value": here.session.intent(name, args, who)})


@ROUTES.post("/api/queries/{name}", response_model=None)
async def query(name: str, request: Request) -> Response:
    args, here = await arguments(request), served(request)
    return await here.ask(request, name, lambda who, gone: here.session.query(name, args, who, gone=gone), query=True)


@ROUTES.get("/api/items/file", response_model=None)
def item_file(request: Request, name: str, ending: str) -> Response:
    file, data = served(request).session.file(name, ending)
    named = {"content-disposition": f"attachment; filename*=UTF-8''{quote(file)}"}
    return Response(data, media_type=TENSORS, headers=named)


@ROUTES.websocket("/ws")
async def socket(websocket: WebSocket) -> None:
    here = served(websocket)
    await talk(websocket, here, here.door.person(websocket.headers))


@LIBRARY.get("/directions/{id}/file", response_model=None)
async def file(request: Request, id: str) -> Response:
    library, threads = served(request).library, served(request).threads
    assert library is not None  # else these routes are not there
    found = await threads.read(lambda: library.send(id))
    entry = (await threads.read(lambda: library.get(id))).entry
    disposition = f'attachment; filename="direction-{entry.id}.safetensors"'
    return Response(found, media_type=TENSORS, headers={"content-disposition": disposition})


def _route(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        return await served(request).asked(request, name, await _args(request, name))

    return route


for method, path, name in NAMES:
    LIBRARY.add_api_route(f"/{path}", _route(name), methods=[method], response_model=None)


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
