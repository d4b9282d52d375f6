"""The routes of the page of prompts: docs/wire.md under `api/prompts`."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from residscope.fields.base import Spec
from residscope.fields.texts import TextRef
from residscope.server.parse import body
from residscope.session import Session
from residscope.session.prompt_pages import PromptPages
from residscope.world.session_world import source_of

TENSORS = "application/octet-stream"
MOST_OWN = 50


class Prompts(Spec):
    text: TextRef
    n: int = Field(ge=0, le=100)
    seed: int = Field(default=0, ge=0, lt=2**31)
    length: int = Field(default=40, ge=8, le=512)
    own: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=MOST_OWN)


def routes(session: Session) -> APIRouter:
    router = APIRouter(prefix="/api/prompts")
    pages = PromptPages(session)

    @router.post("")
    def make(args: Annotated[Prompts, Depends(body(Prompts))]) -> JSONResponse:
        key = json.dumps(args.text.model_dump(), sort_keys=True)
        source = source_of(args.text)
        return JSONResponse(pages.make(source, key=key, n=args.n, length=args.length, seed=args.seed, own=args.own))

    @router.get("/{id}/coef", response_model=None)
    def coef(id: str, dictionary: str, row: int) -> Response:
        return Response(pages.coef(id, dictionary=dictionary, row=row), media_type=TENSORS)

    @router.get("/{id}/logits", response_model=None)
    def logits(id: str, positive: int, negative: int, row: int) -> Response:
        return Response(pages.logits(id, positive=positive, negative=negative, row=row), media_type=TENSORS)

    return router
