"""ETag and 304 for what a route returns (RFC 9110, 8.8.3 and 13.1.2)."""

import hashlib
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException, Request, Response
from pydantic_core import to_json

T = TypeVar("T")

# For a route's `responses`, so that the OpenAPI document lists it.
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "You have this version"}}


class _IfChanged:
    def __init__(self, request: Request, response: Response) -> None:
        self.known = request.headers.getlist("if-none-match")
        self.response = response

    def __call__(self, value: T) -> T:
        """Return `value` and set its ETag; raise 304 if the client has it.

        The client may store the response, but has to ask each time. A proxy may not store it,
        since it can't know for whom it is.
        """
        # Weak: the bytes of the response may differ, as a proxy compresses them.
        etag = hashlib.sha256(to_json(value)).hexdigest()[:32]
        headers = {"ETag": f'W/"{etag}"', "Cache-Control": "private, no-cache"}
        known = {tag.strip().removeprefix("W/") for line in self.known for tag in line.split(",")}
        if not known.isdisjoint({f'"{etag}"', "*"}):
            raise HTTPException(304, headers=headers)
        self.response.headers.update(headers)
        return value


# A dependency: `return if_changed(value)`.
IfChanged = Annotated[_IfChanged, Depends(_IfChanged)]
