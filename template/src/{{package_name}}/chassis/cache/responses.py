"""Answers that serve again: an HTTP cache (RFC 9111) in Redis, shared by all containers."""

import functools
import hashlib
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast
from uuid import uuid4

import orjson
from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute, serialize_response
from fastapi.utils import is_body_allowed_for_status_code
from starlette.datastructures import Headers

from .cache import PREFIX, Cache

# A request with one of them may get an answer that is for its sender alone.
CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key"})
LARGEST_BYTES = 1_000_000

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Call = Callable[[], Awaitable[Any]]
# What is stored together should not expire together.
jitter = functools.partial(random.SystemRandom().uniform, 0.9, 1.0)


def cached(
    seconds: int, *, tag: str = "untagged", vary: Sequence[str] = (), shared: bool = False
) -> Callable[[Endpoint], Endpoint]:
    """Let a route's answers to GET and HEAD serve for `seconds`; stands below `@router.get`.

    The route's dependencies run first, on every request. An answer is found by path, query
    and the request headers that `vary` names. A request with credentials is answered anew,
    unless `vary` names them or they are `shared`: who gets past the dependencies gets the
    same. Stored is what has status 200, sets no cookie and does not itself forbid it.
    `Cache-Status` (RFC 9211) tells what was done.
    """
    rule = _Rule(seconds, tag, frozenset(name.lower() for name in vary), shared)

    def decorate(endpoint: Endpoint) -> Endpoint:
        is_async = inspect.iscoroutinefunction(endpoint)
        call = endpoint if is_async else functools.partial(run_in_threadpool, endpoint)

        @functools.wraps(endpoint)
        async def answer(**values: Any) -> Response:
            request, response = values.pop("cache_exchange")
            return await rule.answer(request, response, functools.partial(call, **values))

        signature = inspect.signature(endpoint)
        exchange = inspect.Parameter(
            "cache_exchange",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[tuple[Request, Response], Depends(_exchange)],
        )
        parameters = [*signature.parameters.values(), exchange]
        answer.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(Endpoint, answer)

    return decorate


async def invalidate(request: Request, tag: str) -> None:
    """Let no answer of a route with that `tag` serve again, nor one that is being made now.

    For after the change is committed. While Redis is away it has no effect: what Redis
    kept serves for the rest of its time.
    """
    cache: Cache = request.app.state.cache
    await cache.attempt("invalidate", lambda redis: redis.set(_tag_key(tag), uuid4().hex))


async def _exchange(request: Request, response: Response) -> tuple[Request, Response]:
    return request, response


@dataclass(frozen=True)
class _Rule:
    """What `cached` was told, and how a request is answered by it."""

    seconds: int
    tag: str
    vary: frozenset[str]
    shared: bool

    async def answer(self, request: Request, response: Response, call: Call) -> Response:
        # What dependencies set, such as the state of a rate limit, is this request's alone.
        own = list(response.headers.raw)
        if self._applies_to(request):
            answer, status = await self._look_up(request, response, call)
        else:
            answer, status = await _make(request, response, call), "fwd=bypass"
        answer.headers["cache-status"] = f"{__package__}; {status}"
        if varies := self.vary if self.shared else self.vary | CREDENTIALS:
            answer.headers.add_vary_header(", ".join(sorted(varies)))
        answer.raw_headers += own
        return answer

    def _applies_to(self, request: Request) -> bool:
        """Tell whether the answer to `request` may be another's, and another's its own."""
        unshared = frozenset() if self.shared else CREDENTIALS - self.vary
        return (
            request.method in ("GET", "HEAD")
            and not any(name in request.headers for name in unshared)
            and "no-store" not in _directives(request.headers)
        )

    async def _look_up(
        self, request: Request, response: Response, call: Call
    ) -> tuple[Response, str]:
        cache: Cache = request.app.state.cache
        tag, key = _tag_key(self.tag), self._key(request)
        found: Any = await cache.attempt("read", lambda redis: redis.mget(tag, key))
        generation, entry = found or (None, None)
        reload = "no-cache" in _directives(request.headers)
        if entry and not reload and (hit := _unpack(entry, generation)):
            left = self.seconds - int(hit.headers["age"])
            return self._fresh(request, hit), f"hit; ttl={left}"

        answer = await _make(request, response, call)
        status = "fwd=request" if reload else "fwd=miss"
        if not _may_be_stored(answer):
            return answer, status
        if found:
            new, ms = _pack(answer, generation), int(1000 * self.seconds * jitter())
            if await cache.attempt("write", lambda redis: redis.set(key, new, px=ms)):
                status += "; stored"
        return self._fresh(request, answer), status

    def _key(self, request: Request) -> str:
        query = sorted(request.query_params.multi_items(), key=lambda pair: pair[0])
        varying = [request.headers.getlist(name) for name in sorted(self.vary)]
        # A digest, since headers may be secrets.
        digest = hashlib.sha256(orjson.dumps([request.scope["path"], query, varying])).hexdigest()
        return f"{PREFIX}answer:{digest}"

    def _fresh(self, request: Request, answer: Response) -> Response:
        scope = "private, " if any(name in request.headers for name in CREDENTIALS) else ""
        answer.headers.setdefault("cache-control", f"{scope}max-age={self.seconds}")
        return answer


async def _make(request: Request, response: Response, call: Call) -> Response:
    """Call the endpoint, and make of its result the answer that FastAPI would make of it."""
    before = list(response.headers.raw)
    result = await call()
    if isinstance(result, Response):
        answer = result
    else:
        route: APIRoute = request.scope["route"]
        status = response.status_code or route.status_code or 200
        answer = await _serialize(route, status, result)
    answer.raw_headers += [header for header in response.headers.raw if header not in before]
    return answer


async def _serialize(route: APIRoute, status: int, result: Any) -> Response:
    kind = route.response_class
    default = isinstance(kind, DefaultPlaceholder)
    as_json = default and route.response_field is not None
    content = await serialize_response(
        field=route.response_field,
        response_content=result,
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
        dump_json=as_json,
    )
    answer: Response
    if as_json:
        answer = Response(content, status, media_type="application/json")
    else:
        make = kind.value if isinstance(kind, DefaultPlaceholder) else kind
        answer = make(content, status)
    if not is_body_allowed_for_status_code(status):
        answer.body = b""
    return answer


def _may_be_stored(answer: Response) -> bool:
    body: bytes | None = getattr(answer, "body", None)
    forbidden = ("no-store", "no-cache", "private")
    return (
        answer.status_code == 200
        and body is not None
        and len(body) <= LARGEST_BYTES
        and "set-cookie" not in answer.headers
        and not any(word in _directives(answer.headers) for word in forbidden)
    )


def _directives(headers: Headers) -> str:
    return headers.get("cache-control", "").lower()


def _tag_key(tag: str) -> str:
    """Name the key of a value that each `invalidate` changes; answers made before then are void."""
    return f"{PREFIX}tag:{tag}"


def _pack(answer: Response, generation: bytes | None) -> bytes:
    headers = [[part.decode("latin-1") for part in header] for header in answer.raw_headers]
    head = [time.time(), (generation or b"").decode(), headers]
    return orjson.dumps(head) + b"\n" + answer.body


def _unpack(entry: bytes, generation: bytes | None) -> Response | None:
    head, _, body = entry.partition(b"\n")
    stored_at, stored_generation, headers = orjson.loads(head)
    if stored_generation.encode() != (generation or b""):
        return None
    answer = Response(body)
    answer.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    # The containers' clocks may differ.
    answer.headers["age"] = str(max(0, int(time.time() - stored_at)))
    return answer
