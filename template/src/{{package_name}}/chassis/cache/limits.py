"""Rate limits that all containers share, in Redis; while it is down, nobody is refused."""

import math
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

from fastapi import Depends, HTTPException, Response
from fastapi.params import Depends as Dependency
from fastapi.requests import HTTPConnection

from ..service import state_of
from .client import PREFIX, Cache

# The generic cell rate algorithm (GCRA). Each client has one number: the time at which its quota
# is whole again, in microseconds of Redis' clock. Returns how many requests are left and the
# microseconds until then; or -1 and the microseconds until one more request is allowed.
# allow-oom (Redis 7): a full Redis still counts.
TAKE = """#!lua flags=allow-oom
local time = redis.call('TIME')
local now, interval, window = time[1] * 1000000 + time[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local whole = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, now) + interval - now
if whole > window then return {-1, whole - window} end
redis.call('SET', KEYS[1], string.format('%.0f', now + whole), 'PX', math.ceil(whole / 1000))
return {math.floor((window - whole) / interval), whole}
"""
# The problem type and the header fields of draft-ietf-httpapi-ratelimit-headers.
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def client_of(connection: HTTPConnection) -> str:
    """Return whom a request counts for: its caller if that is known, else its address.

    A dependency that ran before leaves the caller in `connection.state.caller`. For an IPv6
    address its network counts, since a client usually has all addresses in it.
    """
    if caller := getattr(connection.state, "caller", None):
        return f"caller:{caller}"
    try:
        address = ip_address(connection.client.host if connection.client else "")
    except ValueError:
        # A Unix socket, or an X-Forwarded-For that is no address: all such requests count together.
        return "address:unknown"
    if isinstance(address, IPv6Address):
        network = IPv6Network((int(address), 64), strict=False)
        return f"address:{address.ipv4_mapped or network}"
    return f"address:{address}"


def rate_limit(
    name: str, times: int, *, seconds: int, client: Callable[..., str] = client_of
) -> Dependency:
    """Make a dependency of a route that allows each client `times` requests in `seconds`.

    They may come at once; then one more is allowed every `seconds / times`. Limits with the same
    name, `times` and `seconds` count together, whatever their routes. The response to a request
    over the limit, or to the handshake of a WebSocket, is a 429. `client` gets the HTTPConnection
    and returns whom the request counts for.
    """
    key = f"{PREFIX}limit:{name}:{times}/{seconds}:"
    window = seconds * 1_000_000
    interval = window // times

    async def take(connection: HTTPConnection, response: Response) -> None:
        cache = state_of(connection, Cache)
        taken = await cache.script("limit", TAKE, [key + client(connection)], [interval, window])
        if taken is None:
            return
        left, reset = taken[0], math.ceil(taken[1] / 1_000_000)
        headers = {
            "RateLimit-Policy": f'"{name}";q={times};w={seconds}',
            "RateLimit": f'"{name}";r={max(left, 0)};t={reset}',
        }
        if left < 0:
            headers["Retry-After"] = str(reset)
            problem = {"type": QUOTA_EXCEEDED, "violated-policies": [name]}
            raise HTTPException(429, problem, headers)
        for field, value in headers.items():
            response.headers.append(field, value)

    dependency: Dependency = Depends(take)
    return dependency
