"""JSON off the wire."""

import json
from typing import Any

from residscope.errors import MalformedJSON
from residscope.session.specs import shorten


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
