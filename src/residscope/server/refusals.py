"""The one error shape, and which status each error has."""

from typing import Any

from fastapi.responses import JSONResponse

from residscope import errors
from residscope.errors import ResidscopeError

STATUS: dict[type[ResidscopeError], int] = {
    errors.NotAllowed: 401,
    errors.ForeignHost: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.MalformedJSON: 400,
    errors.MalformedTensors: 400,
    errors.NoUser: 403,
    errors.NotYours: 403,
    errors.NameTaken: 409,
    errors.EditedSince: 409,
    errors.CannotUndo: 409,
    errors.TooFast: 429,
    errors.DamagedStore: 500,
    errors.StoreUnreachable: 503,
    errors.NoPage: 503,
    errors.Offline: 503,
}


def status_of(error: ResidscopeError) -> int:
    return STATUS.get(type(error), 422 if type(error) is not ResidscopeError else 500)


def body_of(error: ResidscopeError) -> dict[str, Any]:
    return {"error": error.to_dict()}


def refuse(error: ResidscopeError, *, status: int | None = None) -> JSONResponse:
    return JSONResponse(body_of(error), status_code=status or status_of(error))


def internal(error: Exception) -> ResidscopeError:
    """A mistake of ours, in the shape of the rest."""
    return ResidscopeError(f"Residscope failed: {type(error).__name__}: {error}", fix="please report this")
