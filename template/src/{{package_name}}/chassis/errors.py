"""Every error response is a problem document, `application/problem+json` (RFC 9457)."""

import http.client
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi._compat.v2 import ModelField
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import ALL_METHODS
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import Match

__all__ = ["RESPONSES", "Problem", "problem"]

# nginx's status for a client that closed its connection before the response.
CLIENT_CLOSED_REQUEST = 499


class FieldError(BaseModel):
    """What is wrong with one field; `pointer` is a JSON Pointer (RFC 6901) into the request."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457), with the request's id and the fields at fault."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    request_id: str
    errors: list[FieldError] | None = None


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


# How many errors of one request are listed at most, and their bytes.
MOST_ERRORS = 100
MOST_ERROR_BYTES = 9000
# If there are more, they are only counted: 100,000 unknown keys would take 100 MB to describe.
MOST_DESCRIBED = 1000

_SCHEMAS = "#/components/schemas/{model}"
_CONTENT = {ProblemResponse.media_type: {"schema": {"$ref": _SCHEMAS.format(model="Problem")}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is at fault", "content": _CONTENT},
    "5XX": {"description": "The service is at fault", "content": _CONTENT},
}


def problem(
    request: HTTPConnection,
    status: int,
    detail: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    members: dict[str, Any] | None = None,
) -> ProblemResponse:
    """Build the response for an error of HTTP status `status`.

    `detail` is for a person, `members` are for a program: the document's further members.
    """
    title = http.client.responses.get(status, "Error")
    body = {
        "type": "about:blank",
        "title": title,
        **(members or {}),
        "status": status,
        "detail": None if detail == title else detail,
        "request_id": request.state.request_id,
    }
    return ProblemResponse(jsonable_encoder(body, exclude_none=True), status, headers)


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, ClientDisconnect):
        return await on_disconnect(request, error.__cause__)
    if error.status_code < 400:
        return await http_exception_handler(request, error)
    headers = dict(error.headers) if error.headers else None
    if headers and "Allow" in headers:
        headers["Allow"] = _allowed(request)
    # FastAPI's `detail` may be a mapping, though Starlette's type is a string.
    detail: Any = error.detail
    if isinstance(detail, dict):
        text = detail.get("detail")
        return problem(request, error.status_code, text, headers=headers, members=detail)
    return problem(request, error.status_code, str(detail), headers=headers)


async def on_invalid_request(
    request: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError
) -> Response:
    faults = error.errors()
    errors = _listed(faults)
    detail = "The request does not fit its schema"
    if len(errors) < len(faults):
        detail += f"; these are {len(errors)} of {len(faults)} errors"
    return problem(request, 422, detail, members={"errors": errors})


async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
    # Only for the log: the client is gone.
    return problem(request, CLIENT_CLOSED_REQUEST)


async def on_crash(request: Request, error: Exception) -> Response:
    # No details of the error: the request id leads to them in the logs.
    return problem(request, 500)


def _validate(
    field: ModelField, value: Any, values: Any = None, *, loc: tuple[int | str, ...] = ()
) -> tuple[Any, list[dict[str, Any]]]:
    # Replaces FastAPI's method, which describes every error before a handler can cut the list.
    try:
        return field._type_adapter.validate_python(value, from_attributes=True), []
    except ValidationError as error:
        count = error.error_count()
        if count > MOST_DESCRIBED:
            return None, [{"loc": loc, "msg": f"There are {count} errors, too many to list"}]
        faults = error.errors(include_url=False)
        return None, [{**fault, "loc": (*loc, *fault["loc"])} for fault in faults]


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    ModelField.validate = _validate  # type: ignore[assignment, method-assign]
    app.add_exception_handler(HTTPException, on_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, on_invalid_request)  # type: ignore[arg-type]
    app.add_exception_handler(WebSocketRequestValidationError, on_invalid_request)  # type: ignore[arg-type]
    app.add_exception_handler(ClientDisconnect, on_disconnect)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, on_crash)


def describe(openapi: dict[str, Any]) -> None:
    """Complete an OpenAPI document with the schemas that `RESPONSES` refers to."""
    _, schema = models_json_schema([(Problem, "serialization")], ref_template=_SCHEMAS)
    openapi.setdefault("components", {}).setdefault("schemas", {}).update(schema["$defs"])


def _allowed(request: Request) -> str:
    # The router names the methods of the first route at a path, not those of its siblings.
    return ", ".join(
        method
        for method in ALL_METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    )


def _listed(faults: Sequence[Any]) -> list[dict[str, str]]:
    """Return as many errors as fit: a body can cause a hundred thousand, with long names."""
    listed: list[dict[str, str]] = []
    room = MOST_ERROR_BYTES
    for fault in faults[:MOST_ERRORS]:
        # Never the input: it may be a secret.
        error = FieldError(pointer=_pointer(fault["loc"]), detail=fault["msg"])
        room -= len(error.model_dump_json()) + 1
        if room < 0:
            break
        listed.append(error.model_dump())
    return listed


def _pointer(location: tuple[int | str, ...]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in location)
    return "".join(f"/{step}" for step in steps)
