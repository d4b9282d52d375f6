"""The routes: docs/wire.md over HTTP."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from residscope.errors import NoPage, NotFound, ResidscopeError, WireError
from residscope.server.addresses import Addresses
from residscope.server.assets import Assets
from residscope.server.guard import Guard
from residscope.server.library import LibraryHandlers
from residscope.server.parse import arguments
from residscope.server.people import Door, People, Person, Present
from residscope.server.refusals import refuse
from residscope.server.routes import library_routes
from residscope.server.sockets import talk
from residscope.session import Session
from residscope.store import Library

TENSORS = "application/octet-stream"


def create_app(
    session: Session,
    *,
    token: str,
    port: int,
    page: Path | None = None,
    library: Library | None = None,
    people: People | None = None,
    addresses: Addresses | None = None,
) -> FastAPI:
    """The workbench's server around one session. `page` is the folder Vite built; a `library` comes with its `people`."""
    app = FastAPI(title="Residscope", docs_url=None, redoc_url=None, openapi_url=None)
    page = page or Path(str(files("residscope"))) / "_ui"
    addresses = addresses or Addresses()
    door = Door(people, cookie=f"residscope-user-{port}", addresses=addresses)
    present = Present(session.tell_present)
    if library is not None and people is not None:
        handlers = LibraryHandlers(session, library, people, present)
        session.bring(queries=handlers.queries, intents=handlers.intents)
        session.tell_library()
    _errors(app)

    async def ask(request: Request, answer: Callable[[Person], Any]) -> Response:
        """The answer to whoever sent the request, who may be another afterwards."""
        who = door.person(request.headers)
        value = await run_in_threadpool(answer, who)
        told = Response(value, media_type=TENSORS) if isinstance(value, bytes) else JSONResponse(value)
        door.remember(told, who, request.headers)
        return told

    @app.get("/", response_model=None)
    def index() -> Response:
        if not (page / "index.html").is_file():
            raise NoPage(
                "the page is not built into this installation",
                received=str(page / "index.html"),
                fix="in a checkout: make ui, or pip install -e . again with Node 20.19 or newer",
            )
        return FileResponse(page / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/api/state")
    async def state() -> JSONResponse:
        seq, wire = session.snapshot()
        return JSONResponse({"seq": seq, "state": wire})

    @app.post("/api/intents/{name}")
    async def intent(name: str, request: Request) -> Response:
        args = await arguments(request)
        return await ask(request, lambda who: {"ok": True, "value": session.intent(name, args, who)})

    @app.post("/api/queries/{name}", response_model=None)
    async def query(name: str, request: Request) -> Response:
        args = await arguments(request)
        return await ask(request, lambda who: session.query(name, args, who))

    @app.get("/api/items/file", response_model=None)
    def item_file(name: str, ending: str) -> Response:
        file, data = session.file(name, ending)
        named = {"content-disposition": f"attachment; filename*=UTF-8''{quote(file)}"}
        return Response(data, media_type=TENSORS, headers=named)

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await talk(websocket, session, door.person(websocket.headers), present)

    if library is not None:

        async def of_0_1(request: Request, name: str, args: Any) -> Response:
            asked = session.intent if name in handlers.intents else session.query
            return await ask(request, lambda who: asked(name, args, who))

        app.include_router(library_routes(library, of_0_1))
    if (page / "assets").is_dir():
        app.router.routes.append(Mount("/assets", GZipMiddleware(Assets(directory=page / "assets"))))
    # whoever was let in stays so when the server is started again
    key = token if people is None else people.key_of(str(port))
    app.add_middleware(Guard, token=token, key=key, cookie=f"residscope-{port}", addresses=addresses)
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ResidscopeError)
    async def refused(request: Request, error: ResidscopeError) -> Response:
        return refuse(error, headers=request.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return refuse(WireError(f"the request does not parse: {found}", received=str(request.url.query) or None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow")
            problem: ResidscopeError = WireError(
                f"{request.url.path} does not answer {request.method}", allowed=allowed
            )
        elif error.status_code == 404:
            problem = NotFound("there is nothing at this address", received=request.url.path)
        else:
            problem = WireError(str(error.detail))
        return refuse(problem, status=error.status_code, headers=request.headers)
