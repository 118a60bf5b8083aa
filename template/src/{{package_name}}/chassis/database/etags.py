"""Entity tags of versioned resources: ETag, If-Match, If-None-Match (RFC 9110, 8.8.3 and 13.1)."""

import re
from typing import Annotated, Any

from fastapi import Header, HTTPException

from .. import errors

__all__ = [
    "CHANGED",
    "NOT_MODIFIED",
    "NO_IF_MATCH",
    "PROBLEM",
    "IfMatch",
    "IfNoneMatch",
    "Responses",
    "changed",
    "etag",
    "required",
    "unless_known",
    "versions",
]

# A header of this length has room for some 200 tags, which is more than a client needs.
LONGEST = 1000
# A tag as `etag` makes them.
TAG = re.compile(r'(W/)?"([1-9][0-9]{0,8})"')

IfMatch = Annotated[
    str | None, Header(max_length=LONGEST, description="The ETag of the version you know, or `*`")
]
IfNoneMatch = Annotated[
    str | None, Header(max_length=LONGEST, description="The ETag of the version you have")
]

Responses = dict[int | str, dict[str, Any]]
PROBLEM = errors.RESPONSES["4XX"]
NOT_MODIFIED: Responses = {304: {"description": "You have this version"}}
CHANGED: Responses = {412: {**PROBLEM, "description": "It has changed; read it again"}}
NO_IF_MATCH: Responses = {428: {**PROBLEM, "description": "If-Match is missing"}}


def etag(version: int) -> str:
    """Return the ETag of a version; versions count from 1."""
    return f'"{version}"'


def versions(tags: str | None, *, weak: bool = False) -> set[int] | None:
    """Return the versions that an If-Match or If-None-Match lists; None for any.

    `*` and a missing header mean any. Weak tags count only in `weak` comparison.
    """
    if tags is None or tags.strip() == "*":
        return None
    return {int(tag[2]) for tag in TAG.finditer(tags) if weak or not tag[1]}


def required(if_match: str | None) -> set[int] | None:
    """Return the versions that an If-Match lists, None for any; raise 428 if it is missing."""
    if if_match is None:
        raise HTTPException(428, "If-Match is missing: send the ETag of the version you know")
    return versions(if_match)


def unless_known(version: int, if_none_match: str | None) -> None:
    """Raise 304 if the client has this version."""
    if if_none_match is None:
        return
    known = versions(if_none_match, weak=True)
    if known is None or version in known:
        raise HTTPException(304, headers={"ETag": etag(version)})


def changed() -> HTTPException:
    """Return the 412 for a client that knows another version."""
    return HTTPException(412, "It has changed: read it again")
