"""The issuer's public keys, from its JSON Web Key Set (RFC 7517)."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
import jwt
import orjson
import structlog
from fastapi import HTTPException
from prometheus_client import Gauge

from ..metrics import REGISTRY
from ..settings import PACKAGE

logger = structlog.get_logger()

FETCHED = Gauge(
    "jwt_keys_fetched_timestamp_seconds",
    "When the issuer's keys were last fetched, in Unix time; 0 if never.",
    registry=REGISTRY,
)

# One per kind of key. None uses a shared secret, since anybody could sign with a published key.
ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256"}

# How old the keys may get; how soon they may be fetched again if a token names an unknown key, or
# if a fetch failed; how long a fetch may take in all, and how large the response may be.
LIFETIME_SECONDS = 300
REFRESH_SECONDS = 30
RETRY_SECONDS = 5
FETCH_SECONDS = 3
LARGEST_KEY_SET = 262_144


class IssuerKeys:
    """The keys at a URL; they stay in use while the issuer is down."""

    def __init__(self, url: str, client: httpx2.AsyncClient) -> None:
        self.url = url
        self.client = client
        self.known: dict[tuple[str | None, str], jwt.PyJWK] | None = None
        self.failing = False
        self.next_fetch = float("-inf")
        self.flight: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str) -> AsyncIterator["IssuerKeys"]:
        """Keep the keys at `url` fresh for as long as the context is open."""
        async with httpx2.AsyncClient(
            # Some issuers refuse the User-Agent of HTTP libraries.
            headers={"User-Agent": PACKAGE, "Accept-Encoding": "identity"},
            # Made once, since it reads all certificates; SSL_CERT_FILE replaces them.
            verify=ssl.create_default_context(),
            # An idle connection would be closed before the next fetch.
            limits=httpx2.Limits(max_keepalive_connections=0),
        ) as client:
            keys = cls(url, client)
            keeper = asyncio.create_task(keys._keep_fresh())
            yield keys
            keeper.cancel()
            if keys.flight:
                keys.flight.cancel()

    async def _keep_fresh(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(RETRY_SECONDS if self.failing else LIFETIME_SECONDS)

    async def fetched(self) -> bool:
        """Return whether a key set was ever fetched; fetch it if not."""
        if self.known is None:
            await self.refresh()
        return self.known is not None

    async def all(self) -> dict[tuple[str | None, str], jwt.PyJWK]:
        """Return the keys by id and algorithm; raise a 503 if none was ever fetched."""
        if not await self.fetched() or self.known is None:
            retry = {"Retry-After": str(RETRY_SECONDS)}
            raise HTTPException(503, "The token can't be verified now", retry)
        return self.known

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that a token names; fetch the keys if it is unknown."""
        if (kid, algorithm) not in await self.all():
            await self.refresh()
        return (await self.all()).get((kid, algorithm))

    async def refresh(self) -> None:
        """Fetch the keys, unless they just were; concurrent callers wait for the same fetch."""
        if self.flight is None and time.monotonic() >= self.next_fetch:
            self.flight = asyncio.create_task(self._fetch())
        if self.flight is not None:
            # A cancelled caller must not cancel the fetch of the others.
            await asyncio.shield(self.flight)

    async def _fetch(self) -> None:
        try:
            self.known = usable(await self._download())
            self.failing = False
            FETCHED.set_to_current_time()
        except Exception as error:
            logger.warning("the issuer's keys can't be fetched", error=repr(error))
            self.failing = True
        self.next_fetch = time.monotonic() + (RETRY_SECONDS if self.failing else REFRESH_SECONDS)
        self.flight = None

    async def _download(self) -> bytes:
        """Return the response of the URL, within FETCH_SECONDS and LARGEST_KEY_SET.

        A redirect is a failure: keys come only from the configured address.
        """
        content = b""
        async with (
            # For the whole exchange, DNS included: httpx2's own timeouts restart with each byte.
            asyncio.timeout(FETCH_SECONDS),
            self.client.stream("GET", self.url, timeout=None) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST_KEY_SET:
                    raise ValueError("the key set is too large")
        return content


def usable(key_set: bytes) -> dict[tuple[str | None, str], jwt.PyJWK]:
    """Return the keys that can verify tokens, by id and algorithm; skip others."""
    found = {}
    for key in orjson.loads(key_set)["keys"]:
        with suppress(KeyError, TypeError, jwt.PyJWTError):
            algorithm = ALGORITHMS[key["kty"], key.get("crv")]
            signs = key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm
            # Anybody can sign with a published private key.
            if signs and "d" not in key:
                found[key.get("kid"), algorithm] = jwt.PyJWK(key, algorithm)
    return found
