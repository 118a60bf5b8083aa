"""Results of functions, kept in Redis and shared by all containers."""

import asyncio
import functools
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import date, timedelta
from datetime import time as clock_time
from decimal import Decimal
from enum import Enum
from string import Formatter
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, get_type_hints
from uuid import UUID, uuid4

from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError

from ..metrics import REGISTRY
from .client import PREFIX, Cache

# All entries together. Redis needs twice that, and must not evict keys, such as rate limits.
MOST_BYTES = 32_000_000
# The largest entry: while it arrives, each connection to Redis holds it more than once.
LARGEST_BYTES = 100_000
# What Redis adds to an entry: a key, its time to live and its place in the index.
OVERHEAD_BYTES = 500
# All tags share this many keys, so no input can create more. Tags with the same key are
# invalidated together.
TAG_KEYS = 4096
# How long others wait for the process that computes a result: it may have been killed.
LOCK_SECONDS = 10.0
POLL_SECONDS = 0.02

# A tag is a key with a random value, its generation, which each entry repeats. Once the key is
# deleted or lost, its entries have no effect, including those that are being computed.
# KEYS: entry, lock, tags. ARGV: new generation, process, lock's ms, entry's ms.
# Returns 'hit', generation, value; or 'compute' or 'wait', generation.
LOOK_UP = """
local generations = {}
for i = 3, #KEYS do
    generations[i - 2] = redis.call('GET', KEYS[i]) or ARGV[1]
end
local generation = table.concat(generations, ' ')
local entry = redis.call('GET', KEYS[1])
local head = generation .. '\\n'
if entry and string.sub(entry, 1, #head) == head then
    return {'hit', generation, string.sub(entry, #head + 1)}
end
for i = 3, #KEYS do
    redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[4])
    redis.call('PEXPIRE', KEYS[i], ARGV[4], 'GT')
end
local lock = KEYS[2] .. generation
if redis.call('SET', lock, ARGV[2], 'NX', 'PX', ARGV[3]) or redis.call('GET', lock) == ARGV[2] then
    return {'compute', generation}
end
return {'wait', generation}
"""
# The index orders entries by when they expire; 'sizes' has the bytes of each, and the sum as ''.
# KEYS: entry, lock, index, sizes. ARGV: entry, its ms, its bytes, the most bytes of all.
STORE = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local growth = ARGV[3] - (redis.call('HGET', KEYS[4], KEYS[1]) or 0)
redis.call('HSET', KEYS[4], KEYS[1], ARGV[3])
local sum = redis.call('HINCRBY', KEYS[4], '', growth)
redis.call('ZADD', KEYS[3], now + ARGV[2], KEYS[1])
local removed = 0
while true do
    local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
    if not first[1] then
        redis.call('DEL', KEYS[4])
        break
    end
    if sum <= tonumber(ARGV[4]) and (tonumber(first[2]) > now or removed >= 100) then break end
    redis.call('ZREM', KEYS[3], first[1])
    redis.call('DEL', first[1])
    sum = redis.call('HINCRBY', KEYS[4], '', -(redis.call('HGET', KEYS[4], first[1]) or 0))
    redis.call('HDEL', KEYS[4], first[1])
    removed = removed + 1
end
return {removed}
"""
LOOKUPS = Counter(
    "cache_lookups",
    "Calls of cached functions, by whether Redis had the result (hit, miss).",
    ["result"],
    registry=REGISTRY,
)
ENTRY, LOCK = f"{PREFIX}entry:", f"{PREFIX}lock:"
INDEX, SIZES = f"{PREFIX}entries", f"{PREFIX}sizes"

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[P, Coroutine[Any, Any, R]]


def cached(
    *, ttl: timedelta, tags: Sequence[str] = (), ignore: Sequence[str] = ()
) -> Callable[[Function[P, R]], Function[Concatenate[Cache, P], R]]:
    """Keep results of an async function in Redis for `ttl`; callers pass the Cache first.

    Its arguments are the key, except those that `ignore` names, such as a session: nothing else in
    a request affects who gets which result. `invalidate` removes all results with one of its
    `tags`; "price:{sku}" contains an argument. The function's return type turns the result into
    JSON, and reads it again for every caller. Concurrent calls compute once, in all processes
    together. Raise TypeError for an argument that can't be part of a key.
    """

    def decorate(function: Function[P, R]) -> Function[Concatenate[Cache, P], R]:
        rule = _Rule(function, ttl, tags, ignore)

        @functools.wraps(function)
        async def call(cache: Cache, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return await rule.call(cache, *args, **kwargs)

        return call

    return decorate


async def invalidate(cache: Cache, *tags: str) -> bool:
    """Remove all results with one of `tags`, even those being computed; call it after the commit.

    Return False if Redis is down: what it kept may then be served until it expires.
    """
    cache.computing.clear()
    keys = [_tag_key(tag) for tag in tags]
    return await cache.attempt("invalidate", lambda redis: redis.delete(*keys)) is not None


class _Found(NamedTuple):
    state: str
    generation: bytes
    value: bytes | None = None


class _Rule(Generic[P, R]):
    """The arguments of `cached`, and how a call of the function is served."""

    def __init__(
        self, function: Function[P, R], ttl: timedelta, tags: Sequence[str], ignore: Sequence[str]
    ) -> None:
        self.function = function
        self.ttl = int(ttl.total_seconds() * 1000)
        self.tags = tags
        self.ignore = frozenset(ignore)
        self.signature = inspect.signature(function)
        self.type: TypeAdapter[R] = TypeAdapter(get_type_hints(function)["return"])
        self.name = f"{function.__module__}.{function.__qualname__}"
        named = {name for tag in tags for _, name, _, _ in Formatter().parse(tag) if name}
        if unknown := (named | self.ignore) - self.signature.parameters.keys():
            raise TypeError(f"{self.name} has no argument {', '.join(sorted(unknown))}")

    async def call(self, cache: Cache, *args: P.args, **kwargs: P.kwargs) -> R:
        digest, tags = self._keys(*args, **kwargs)
        found = await self._look_up(cache, digest, tags)
        LOOKUPS.labels("miss" if found.value is None else "hit").inc()
        if found.value is not None:
            try:
                return self._read(found.value)
            except ValidationError:
                # Garbled, or stored by a release in which the type was different.
                found = _Found("compute", found.generation)
        key = (digest, found.generation)
        if key not in cache.computing:
            computing = self._compute(cache, digest, tags, found, *args, **kwargs)
            cache.computing[key] = asyncio.create_task(computing)
            cache.computing[key].add_done_callback(functools.partial(_forget, cache, key))
        # If one caller is cancelled, the others still get the result.
        return self._read(await asyncio.shield(cache.computing[key]))

    async def _compute(
        self,
        cache: Cache,
        digest: str,
        tags: Sequence[str],
        found: _Found,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> bytes:
        deadline = time.monotonic() + LOCK_SECONDS
        while found.state == "wait" and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            found = await self._look_up(cache, digest, tags)
            if found.value is not None:
                return found.value
        lock = f"{LOCK}{digest}:{found.generation.decode()}"
        try:
            result = await self.function(*args, **kwargs)
            value = self.type.dump_json(result, by_alias=False, round_trip=True)
            # Fail at once if it could not be read from Redis later.
            self._read(value)
        except BaseException:
            await cache.attempt("release", lambda redis: redis.delete(lock))
            raise
        size = len(value) + OVERHEAD_BYTES
        if found.state != "down" and size <= LARGEST_BYTES:
            entry = found.generation + b"\n" + value
            keys = [f"{ENTRY}{digest}", lock, INDEX, SIZES]
            await cache.script("write", STORE, keys, [entry, self.ttl, size, MOST_BYTES])
        elif found.state != "down":
            await cache.attempt("release", lambda redis: redis.delete(lock))
        return value

    async def _look_up(self, cache: Cache, digest: str, tags: Sequence[str]) -> _Found:
        lock = int(LOCK_SECONDS * 1000)
        keys = [f"{ENTRY}{digest}", f"{LOCK}{digest}:", *tags]
        # Tags outlive the results that are still being computed.
        found = await cache.script(
            "read", LOOK_UP, keys, [uuid4().hex, cache.process, lock, self.ttl + lock]
        )
        return _Found(found[0].decode(), *found[1:]) if found else _Found("down", b"")

    def _read(self, value: bytes) -> R:
        return self.type.validate_json(value, by_alias=False, by_name=True)

    def _keys(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, list[str]]:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = {name: value for name, value in bound.arguments.items() if name not in self.ignore}
        digest = hashlib.sha256(json.dumps([self.name, key], default=_plain).encode()).hexdigest()
        return digest, [_tag_key(tag.format(**bound.arguments)) for tag in self.tags]


def _forget(cache: Cache, key: tuple[str, bytes], task: asyncio.Task[bytes]) -> None:
    if cache.computing.get(key) is task:
        del cache.computing[key]
    # Otherwise asyncio would report an error whose callers were all cancelled.
    if not task.cancelled():
        task.exception()


def _tag_key(tag: str) -> str:
    number = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4]) % TAG_KEYS
    return f"{PREFIX}tag:{number}"


def _plain(value: object) -> object:
    if isinstance(value, date | clock_time | timedelta | Decimal | Enum | UUID):
        return [type(value).__name__, str(value)]
    # Not repr() or str(): they are the same for every SecretStr.
    raise TypeError(f"{type(value).__name__} can't be part of a key: name its argument in `ignore`")
