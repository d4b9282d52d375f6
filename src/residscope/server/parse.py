"""JSON off the wire."""

import json
from typing import Any

from fastapi import Request

from residscope.declare import shorten
from residscope.errors import MalformedJSON

OCTETS = "application/octet-stream"
MOST_HEAD = 2 << 20


def parse_json(data: bytes | str) -> Any:
    """JSON as the standard has it: no NaN, no number that is infinite (1e999), no lone surrogates, no bottomless nesting.

    Raises:
        MalformedJSON.
    """
    try:
        parsed = json.loads(data, parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedJSON(
            f"the body is not JSON: {reason}", received=shorten(data), allowed="JSON in UTF-8"
        ) from None
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def arguments(request: Request) -> Any:
    """The arguments of an intent or a query: JSON, or, where the body is octets, `data`, and the others in the address.

    Raises:
        MalformedJSON.
    """
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == OCTETS:
        return {**request.query_params, "data": body}
    return parse_json(body or b"{}")


def parse_frame(frame: bytes) -> Any:
    """A message with octets: 4 bytes (little-endian) with the length of its JSON, the JSON, and what goes into `args.data`.

    Raises:
        MalformedJSON.
    """
    size = int.from_bytes(frame[:4], "little")
    if len(frame) < 4 + size or size > MOST_HEAD:
        raise MalformedJSON(
            "the frame does not parse", received=f"{len(frame)} bytes, a head of {size}", allowed="4 bytes, JSON, data"
        )
    message = parse_json(frame[4 : 4 + size])
    if not isinstance(message, dict) or not isinstance(args := message.get("args", {}), dict):
        raise MalformedJSON(
            "the frame does not parse", received=shorten(message), allowed="{id, intent, args}, then data"
        )
    return {**message, "args": {**args, "data": frame[4 + size :]}}
