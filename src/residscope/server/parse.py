"""JSON off the wire."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from residscope.declare import reasons, shorten
from residscope.errors import MalformedJSON

A = TypeVar("A", bound=BaseModel)


def parse_json(data: bytes | str) -> Any:
    """JSON as the standard has it: no NaN, no lone surrogates, no bottomless nesting.

    Raises:
        MalformedJSON.
    """
    try:
        parsed = json.loads(data, parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedJSON(
            f"the body is not JSON: {reason}", received=shorten(data), allowed="JSON in UTF-8"
        ) from None
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def body(shape: type[A]) -> Callable[[Request], Any]:
    """The request's JSON as a shape. Raises MalformedJSON."""

    async def parsed(request: Request) -> A:
        raw = parse_json(await request.body() or b"{}")
        try:
            return shape.model_validate(raw)
        except ValidationError as error:
            raise MalformedJSON(
                f"the request does not parse: {reasons(error)}",
                received=shorten(raw),
                allowed=f"an object with {', '.join(shape.model_fields)}",
            ) from None

    return parsed
