"""The library's routes: docs/wire.md under `api/library/`. Who asks is in the cookie, never in the request."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from residscope.errors import ModelNotFound
from residscope.fields.base import Spec
from residscope.server.blind import BlindTests
from residscope.server.guard import cookie_in
from residscope.server.parse import body as _body
from residscope.server.people import YEAR, People
from residscope.session import Session
from residscope.store import Library, Search
from residscope.store.entries import Entry

FILE = "application/octet-stream"


class Name(Spec):
    name: str


class Save(Spec):
    direction: Any
    name: str
    description: str | None = None


class Rename(Spec):
    name: str
    seen: int | None = None


class Said(Spec):
    text: str
    seen: int | None = None


class Value(Spec):
    value: Literal[-1, 0, 1]


class Guesses(Spec):
    guesses: list[float] = Field(max_length=100)


class Undo(Spec):
    event: int | None = None


def routes(session: Session, library: Library, people: People, *, cookie: str) -> APIRouter:
    """Everything under `api/library`. `cookie`: the one that holds the name."""
    router = APIRouter(prefix="/api/library")
    blind = BlindTests(session, library)

    def of_the_model() -> tuple[str, ...] | None:
        """The hashes that the loaded model goes by here; None without a model."""
        try:
            return library.hashes_of(session.model)
        except ModelNotFound:
            return None

    def shown(entry: Entry, hashes: tuple[str, ...] | None) -> dict[str, Any]:
        return entry.to_dict() | {"here": None if hashes is None else entry.model_hash in hashes}

    def asker(request: Request) -> str | None:
        return people.name_in(cookie_in(request.headers, cookie))

    def changer(request: Request) -> str:
        return people.changes(asker(request))

    Asker = Annotated[str | None, Depends(asker)]
    Changer = Annotated[str, Depends(changer)]

    @router.get("/me")
    def me(user: Asker) -> JSONResponse:
        return JSONResponse({"name": user})

    @router.post("/me")
    def sign_in(args: Annotated[Name, Depends(_body(Name))]) -> JSONResponse:
        people.buckets["name"].take("")
        name = library.sign_in(args.name)
        answer = JSONResponse({"name": name})
        answer.set_cookie(cookie, people.sign(name), max_age=YEAR, httponly=True, samesite="strict", path="/")
        return answer

    @router.delete("/me")
    def sign_out() -> JSONResponse:
        answer = JSONResponse({"name": None})
        answer.delete_cookie(cookie, path="/", httponly=True, samesite="strict")
        return answer

    @router.get("/directions")
    def search(
        text: str | None = Query(None, max_length=200),
        user: str | None = Query(None, max_length=200),
        model: str | None = Query(None, max_length=400),
        site: str | None = Query(None, max_length=80),
        min_votes: int | None = Query(None, ge=-(2**31), lt=2**31),
        sort: Literal["newest", "votes"] = "newest",
        limit: int = Query(20, ge=1, le=100),
        after: str | None = Query(None, max_length=400),
        here: bool = False,
    ) -> JSONResponse:
        hashes = of_the_model()
        found = library.search(
            Search(text, user, model, site, min_votes, sort, limit, after, (hashes or ()) if here else None)
        )
        return JSONResponse({"entries": [shown(entry, hashes) for entry in found.entries], "after": found.after})

    @router.post("/directions")
    def save(args: Annotated[Save, Depends(_body(Save))], user: Changer) -> JSONResponse:
        direction, model = session.resolve(args.direction)
        saved = library.save(direction, model=model, user=user, name=args.name, description=args.description)
        return JSONResponse(shown(saved, of_the_model()))

    @router.post("/import")
    async def receive(request: Request, user: Changer, name: str | None = None) -> JSONResponse:
        data = await request.body()
        entry, new = await run_in_threadpool(library.receive, data, user=user, name=name)
        return JSONResponse({"entry": shown(entry, await run_in_threadpool(of_the_model)), "new": new})

    @router.get("/directions/{id}")
    def get(id: str, user: Asker) -> JSONResponse:
        whole = library.get(id, user=user)
        return JSONResponse(whole.to_dict() | {"entry": shown(whole.entry, of_the_model())})

    @router.patch("/directions/{id}")
    def rename(id: str, args: Annotated[Rename, Depends(_body(Rename))], user: Changer) -> JSONResponse:
        return JSONResponse(shown(library.rename(id, args.name, user=user, seen=args.seen), of_the_model()))

    @router.delete("/directions/{id}")
    def delete(id: str, user: Changer) -> JSONResponse:
        return JSONResponse({"event": library.delete(id, user=user)})

    @router.get("/directions/{id}/file", response_model=None)
    def file(id: str) -> Response:
        disposition = f'attachment; filename="direction-{library.get(id).entry.id}.safetensors"'
        return Response(library.send(id), media_type=FILE, headers={"content-disposition": disposition})

    @router.post("/directions/{id}/open")
    def open_in_session(id: str) -> JSONResponse:
        direction = library.direction(id, model=session.model)
        return JSONResponse(session.adopt(direction, id=id))

    @router.post("/directions/{id}/descriptions")
    def describe(id: str, args: Annotated[Said, Depends(_body(Said))], user: Changer) -> JSONResponse:
        return JSONResponse(library.describe(id, args.text, user=user).to_dict())

    @router.patch("/descriptions/{id}")
    def edit_description(id: str, args: Annotated[Said, Depends(_body(Said))], user: Changer) -> JSONResponse:
        return JSONResponse(library.edit_description(id, args.text, user=user, seen=args.seen).to_dict())

    @router.delete("/descriptions/{id}")
    def delete_description(id: str, user: Changer) -> JSONResponse:
        return JSONResponse({"event": library.delete_description(id, user=user)})

    @router.put("/descriptions/{id}/vote")
    def vote(id: str, args: Annotated[Value, Depends(_body(Value))], user: Changer) -> JSONResponse:
        return JSONResponse(library.vote(id, args.value, user=user).to_dict())

    @router.post("/descriptions/{id}/blind")
    def begin_blind(id: str, user: Changer) -> JSONResponse:
        return JSONResponse(blind.begin(id, user=user))

    @router.post("/blind/{test}")
    def finish_blind(test: str, args: Annotated[Guesses, Depends(_body(Guesses))], user: Changer) -> JSONResponse:
        return JSONResponse(blind.finish(test, args.guesses, user=user))

    @router.post("/directions/{id}/comments")
    def comment(id: str, args: Annotated[Said, Depends(_body(Said))], user: Changer) -> JSONResponse:
        return JSONResponse(library.comment(id, args.text, user=user).to_dict())

    @router.delete("/comments/{id}")
    def delete_comment(id: str, user: Changer) -> JSONResponse:
        return JSONResponse({"event": library.delete_comment(id, user=user)})

    @router.post("/undo")
    def undo(args: Annotated[Undo, Depends(_body(Undo))], user: Changer) -> JSONResponse:
        kind, id = library.undo(user=user, event=args.event)
        return JSONResponse({"kind": kind, "id": id})

    return router
