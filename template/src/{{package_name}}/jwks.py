"""The public keys of the issuer of tokens: its JSON Web Key Set (RFC 7517)."""

import asyncio
import time
import urllib.request
from contextlib import suppress

import jwt
import orjson
import structlog
from fastapi import HTTPException

logger = structlog.get_logger()

# Each for one kind of key, and none for a shared secret: what the issuer publishes signs nothing.
ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256"}

# How old the keys they may get, how soon they are asked for again where a token
# names another one and where the issuer did not answer, and what an answer may take.
LIFETIME_SECONDS = 300
REFRESH_SECONDS = 30
RETRY_SECONDS = 5
FETCH_SECONDS = 3
LARGEST_KEY_SET = 262_144


class IssuerKeys:
    """The issuer's public keys (RFC 7517); they stay in use while it is away."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.known: dict[tuple[str | None, str], jwt.PyJWK] | None = None
        self.failing = False
        self.next_fetch = float("-inf")
        self.flight: asyncio.Task[None] | None = None

    async def keep_fresh(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(RETRY_SECONDS if self.failing else LIFETIME_SECONDS)

    async def all(self) -> dict[tuple[str | None, str], jwt.PyJWK]:
        """Return the keys by id and algorithm; 503 where there never were any."""
        if self.known is None:
            await self.refresh()
        if self.known is None:
            retry = {"Retry-After": str(RETRY_SECONDS)}
            raise HTTPException(503, "The token can't be verified now", retry)
        return self.known

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that a token names; a new one of the issuer's is fetched."""
        if (kid, algorithm) not in await self.all():
            await self.refresh()
        return (await self.all()).get((kid, algorithm))

    async def refresh(self) -> None:
        """Fetch the keys, unless that was just done; who asks meanwhile waits for the same one."""
        if self.flight is None and time.monotonic() >= self.next_fetch:
            self.flight = asyncio.create_task(self._fetch())
        if self.flight is not None:
            # One who waits no longer must not end it for the others.
            await asyncio.shield(self.flight)

    async def _fetch(self) -> None:
        try:
            self.known = usable(await asyncio.to_thread(download, self.url))
            self.failing = False
        except Exception as error:
            logger.warning("the issuer's keys can't be fetched", error=repr(error))
            self.failing = True
        self.next_fetch = time.monotonic() + (RETRY_SECONDS if self.failing else REFRESH_SECONDS)
        self.flight = None


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """The issuer's keys come from the address that was configured, or not at all."""


def download(url: str) -> bytes:
    """Return what is at `url`, within FETCH_SECONDS and LARGEST_KEY_SET."""
    deadline = time.monotonic() + FETCH_SECONDS
    # Some issuers refuse Python's own name. The settings allow no scheme but http and https.
    request = urllib.request.Request(url, headers={"User-Agent": str(__package__)})  # noqa: S310
    content = b""
    with urllib.request.build_opener(NoRedirects).open(request, timeout=FETCH_SECONDS) as answer:
        while chunk := answer.read1(LARGEST_KEY_SET):
            content += chunk
            if len(content) > LARGEST_KEY_SET or time.monotonic() > deadline:
                raise ValueError("the key set is too large, or too slow")
    return content


def usable(key_set: bytes) -> dict[tuple[str | None, str], jwt.PyJWK]:
    """Pick the keys that verify tokens here, by id and algorithm; others are no fault."""
    found = {}
    for key in orjson.loads(key_set)["keys"]:
        with suppress(KeyError, TypeError, jwt.PyJWTError):
            algorithm = ALGORITHMS[key["kty"], key.get("crv")]
            signs = key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm
            # A private key that is published is anybody's.
            if signs and "d" not in key:
                found[key.get("kid"), algorithm] = jwt.PyJWK(key, algorithm)
    return found
