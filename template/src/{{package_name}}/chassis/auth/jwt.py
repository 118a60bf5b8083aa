"""Authentication with JWTs (RFC 6750, RFC 7519) of one issuer."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import jwt
import structlog
from fastapi import HTTPException
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer
from pydantic import ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..feature import NotReadyError
from ..service import Service, settings_of
from ..settings import PACKAGE, EnvironmentSettings
from .callers import Authenticator, Identity
from .feature import authentication
from .jwks import ALGORITHMS, IssuerKeys

__all__ = ["Settings", "feature"]

logger = structlog.get_logger()

LEEWAY_SECONDS = 30
LONGEST_TOKEN = 16_384
# The issuer in `ops/issuer.py`, which anyone with a clone can run.
DEVELOPMENT_ISSUER = "urn:development-issuer"
EXAMPLES = {
    "jwt_issuer": "https://login.example.com/",
    "jwt_audience": "https://api.example.com",
    "jwt_jwks_url": "https://login.example.com/.well-known/jwks.json",
}
NOT_SET = "JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL are not set"

CHALLENGE = f'Bearer realm="{PACKAGE}"'
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired",
    jwt.ImmatureSignatureError: "The token is not valid yet",
    jwt.InvalidIssuerError: "The token is another issuer's",
    jwt.InvalidAudienceError: "The token is for another audience",
    jwt.MissingRequiredClaimError: "The token lacks one of exp, iss, aud and sub",
}

bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)


class Settings(EnvironmentSettings):
    """The issuer whose tokens are accepted: all three are set, or none."""

    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_jwks_url: str = ""

    @model_validator(mode="before")
    @classmethod
    def _are_set_together(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**dict.fromkeys(EXAMPLES), **given} if given.keys() & EXAMPLES.keys() else given

    @field_validator(*EXAMPLES, mode="before")
    @classmethod
    def _is_set(cls, value: object, field: ValidationInfo) -> object:
        if value is None:
            raise PydanticCustomError(
                "jwt",
                "Set JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL together; "
                "this one to a value such as {example}",
                {"example": EXAMPLES[str(field.field_name)]},
            )
        return value

    @field_validator("jwt_issuer")
    @classmethod
    def _is_for_production(cls, issuer: str, others: ValidationInfo) -> str:
        if issuer == DEVELOPMENT_ISSUER and others.data.get("app_env") == "production":
            raise PydanticCustomError(
                "jwt_issuer",
                "The development issuer is not for production; set yours, such as {example}",
                {"example": EXAMPLES["jwt_issuer"]},
            )
        return issuer

    @field_validator("jwt_jwks_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d+)?(/\S*)?", url):
            raise PydanticCustomError(
                "jwks_url",
                "Should start with https:// or http://, such as {example}",
                {"example": EXAMPLES["jwt_jwks_url"]},
            )
        return url


@dataclass
class Tokens:
    """What tokens are verified with; without keys, none is valid."""

    settings: Settings
    keys: IssuerKeys | None

    async def authenticate(self, connection: HTTPConnection) -> Identity:
        """Return whose token a connection brings; raise a 401 if it is not valid."""
        credentials = await bearer(connection)
        if credentials is None:
            raise HTTPException(401, "A bearer token is needed", {"WWW-Authenticate": CHALLENGE})
        try:
            claims = await self.verify(credentials.credentials)
        except jwt.PyJWTError as error:
            # Not the library's words: they may quote the token.
            reason = REASONS.get(type(error), "The token is not valid")
            fault = f'{CHALLENGE}, error="invalid_token", error_description="{reason}"'
            raise HTTPException(401, reason, {"WWW-Authenticate": fault}) from error
        return Identity(id=claims["sub"], scopes=granted(claims))

    async def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token (RFC 8725); raise PyJWTError for any other."""
        if self.keys is None or len(token) > LONGEST_TOKEN:
            raise jwt.InvalidTokenError
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg", "")
        if algorithm not in ALGORITHMS.values():
            raise jwt.InvalidAlgorithmError
        key = await self.keys.find(header.get("kid"), algorithm)
        if key is None:
            raise jwt.InvalidKeyError
        claims = jwt.decode(
            token,
            key,
            [algorithm],
            issuer=self.settings.jwt_issuer,
            audience=self.settings.jwt_audience,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "sub"], "enforce_minimum_key_length": True},
        )
        # Logs and rate limits use it.
        if not claims["sub"] or not claims["sub"].isprintable():
            raise jwt.InvalidTokenError
        return claims

    async def check(self) -> None:
        """Ready once the keys were fetched, even if the issuer is down afterwards.

        In production, not ready either if no token can be valid.
        """
        production = self.settings.app_env == "production"
        if self.keys is None:
            if production:
                raise NotReadyError(NOT_SET)
        elif not await self.keys.fetched():
            raise NotReadyError("the issuer's keys can't be fetched")
        elif not self.keys.known and production:
            raise NotReadyError("the issuer's key set has no key for RS256 or ES256")


def granted(claims: dict[str, Any]) -> list[str]:
    """Read the scopes: `scope` (RFC 8693) or `scp`, as a text with spaces or as a list."""
    scopes: set[str] = set()
    for claim in (claims.get("scope"), claims.get("scp")):
        listed = claim.split() if isinstance(claim, str) else claim
        if isinstance(listed, list):
            scopes.update(scope for scope in listed if isinstance(scope, str) and scope.isascii())
    return sorted(scopes)


def forbidden(scopes: str) -> HTTPException:
    fault = f'{CHALLENGE}, error="insufficient_scope", scope="{scopes}"'
    return HTTPException(403, f"The token needs: {scopes}", {"WWW-Authenticate": fault})


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[Authenticator]:
    settings = settings_of(service, Settings)
    url = settings.jwt_jwks_url
    if not url:
        logger.warning(f"{NOT_SET}: every token is refused")
    async with IssuerKeys.of(url) if url else nullcontext() as keys:
        tokens = Tokens(settings, keys)
        yield Authenticator(tokens.authenticate, forbidden, tokens.check)


feature = authentication(Settings, lifespan, bearer)
