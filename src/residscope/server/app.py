"""The app: routes, what refuses, and the guard before them."""

import secrets
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from residscope.errors import NotFound, ResidscopeError, WireError
from residscope.server.addresses import Addresses
from residscope.server.assets import Assets
from residscope.server.guard import Client, Guard
from residscope.server.library import LibraryHandlers
from residscope.server.people import Door, People, Present
from residscope.server.refusals import refuse
from residscope.server.routes import LIBRARY, ROUTES
from residscope.server.served import Served
from residscope.server.spoken import Pictures, Spoken
from residscope.server.threads import Threads
from residscope.session import Session
from residscope.store import Library


def create_app(
    session: Session,
    *,
    token: str,
    port: int,
    page: Path | None = None,
    library: Library | None = None,
    people: People | None = None,
    addresses: Addresses | None = None,
    once: set[str] | None = None,
    known: Callable[[Client], None] = lambda client: None,
) -> FastAPI:
    """The workbench's server around one session. `page` is the folder Vite built; a `library` comes with its `people`.

    once: tokens that each let in a single time. known: told of each connection that a request was let in on.
    """
    app = FastAPI(title="Residscope", docs_url=None, redoc_url=None, openapi_url=None)
    page = page or Path(str(files("residscope"))) / "_ui"
    addresses = addresses or Addresses()
    door = Door(people, cookie=f"residscope-user-{port}", addresses=addresses)
    present = Present(session.tell_present)
    threads, intents = Threads(), frozenset[str]()
    if library is not None and people is not None:
        handlers = LibraryHandlers(session, library, people, present)
        session.bring(queries=handlers.queries, intents=handlers.intents)
        threads = Threads([*handlers.queries, *handlers.intents])
        session.tell_library()
        intents = frozenset(handlers.intents)
    app.state.served = Served(
        session,
        door,
        present,
        page,
        threads,
        Spoken(session),
        Pictures(session, threads),
        library=library,
        intents=intents,
    )
    _errors(app)
    app.include_router(ROUTES)
    if library is not None:
        app.include_router(LIBRARY)
    if (page / "assets").is_dir():
        app.router.routes.append(Mount("/assets", GZipMiddleware(Assets(directory=page / "assets"))))
    # whoever was let in stays so when the server is started again
    door_key = (lambda name: secrets.token_urlsafe(32)) if people is None else people.key_of
    key, told = door_key(str(port)), door_key(f"{port} page")
    name = f"residscope-{port}"
    app.add_middleware(Guard, token=token, key=key, page=told, cookie=name, addresses=addresses, once=once, known=known)
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
