"""The routes: docs/wire.md over HTTP."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from residscope.errors import NoPage, NotFound, ResidscopeError, WireError
from residscope.server.guard import Guard
from residscope.server.library import routes
from residscope.server.parse import parse_json
from residscope.server.people import People
from residscope.server.prompts import routes as prompts
from residscope.server.refusals import refuse
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
) -> FastAPI:
    """The workbench's server around one session. `page` is the folder Vite built; a `library` comes with its `people`."""
    app = FastAPI(title="Residscope", docs_url=None, redoc_url=None, openapi_url=None)
    page = page or Path(str(files("residscope"))) / "_ui"
    _errors(app)

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
    async def intent(name: str, request: Request) -> JSONResponse:
        args = parse_json(await request.body() or b"{}")
        value = await run_in_threadpool(session.intent, name, args)
        return JSONResponse({"ok": True, "value": value})

    @app.post("/api/queries/{name}", response_model=None)
    async def query(name: str, request: Request) -> Response:
        args = parse_json(await request.body() or b"{}")
        value = await run_in_threadpool(session.query, name, args)
        return Response(value, media_type=TENSORS) if isinstance(value, bytes) else JSONResponse(value)

    @app.get("/api/items/file", response_model=None)
    def item_file(name: str, ending: str) -> Response:
        file, data = session.item_file(name, ending)
        named = {"content-disposition": f"attachment; filename*=UTF-8''{quote(file)}"}
        return Response(data, media_type=TENSORS, headers=named)

    @app.post("/api/items/import")
    async def import_item(request: Request, name: str = "") -> JSONResponse:
        return JSONResponse(await run_in_threadpool(session.import_item, await request.body(), name))

    @app.get("/api/runs/{run}/stream", response_model=None)
    def stream(run: str) -> Response:
        return Response(session.stream(run), media_type=TENSORS)

    @app.get("/api/runs/{run}/coef", response_model=None)
    def coef(run: str, dictionary: str) -> Response:
        return Response(session.coef(run, dictionary=dictionary), media_type=TENSORS)

    @app.get("/api/runs/{run}/logits", response_model=None)
    def logits(run: str, positive: int, negative: int) -> Response:
        return Response(session.logits(run, positive=positive, negative=negative), media_type=TENSORS)

    @app.get("/api/runs/{run}/lens")
    def lens(run: str, layer: int, pos: int) -> JSONResponse:
        return JSONResponse(session.lens(run, layer=layer, pos=pos))

    @app.get("/api/dictionaries")
    def dictionary(id: str) -> JSONResponse:
        return JSONResponse(session.dictionary(id))

    @app.get("/api/gram")
    def gram(of: Annotated[list[str], Query(min_length=1, max_length=100)]) -> JSONResponse:
        return JSONResponse(session.gram(of))

    @app.post("/api/directions/read")
    async def read(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(session.read, parse_json(await request.body())))

    @app.post("/api/directions/import")
    async def import_direction(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(session.import_direction, await request.body()))

    @app.get("/api/probes")
    def probe(name: str) -> JSONResponse:
        return JSONResponse(session.probe(name))

    @app.get("/api/probes/reading")
    def probe_reading(name: str, run: str, pos: int, named: bool = False) -> JSONResponse:
        return JSONResponse(session.probe_reading(name, run=run, pos=pos, named=named))

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await talk(websocket, session)

    app.include_router(prompts(session))
    if library is not None and people is not None:
        app.include_router(routes(session, library, people, cookie=f"residscope-user-{port}"))
    if (page / "assets").is_dir():
        app.router.routes.append(Mount("/assets", StaticFiles(directory=page / "assets")))
    app.add_middleware(Guard, token=token, cookie=f"residscope-{port}")
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ResidscopeError)
    async def refused(request: Request, error: ResidscopeError) -> Response:
        return refuse(error)

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
        return refuse(problem, status=error.status_code)
