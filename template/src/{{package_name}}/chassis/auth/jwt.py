"""Who may call: bearers of a JWT (RFC 6750, RFC 7519) of the issuer that the settings name."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BeforeValidator, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from . import health
from .identity import Identity as Identity
from .identity import known, remember
from .jwks import ALGORITHMS, IssuerKeys

logger = structlog.get_logger()

LEEWAY_SECONDS = 30
LONGEST_TOKEN = 16_384
NOT_SET = "JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL are not set"

CHALLENGE = f'Bearer realm="{__package__}"'
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired",
    jwt.ImmatureSignatureError: "The token is not valid yet",
    jwt.InvalidIssuerError: "The token is another issuer's",
    jwt.InvalidAudienceError: "The token is for another audience",
    jwt.MissingRequiredClaimError: "The token lacks one of exp, iss, aud and sub",
}

bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)


def jwt_setting(example: str) -> BeforeValidator:
    """Make the rule of a setting that is missing where others of the three are set."""

    def check(value: object) -> object:
        if value is None:
            raise PydanticCustomError(
                "jwt",
                "JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL are set together; it is such as {example}",
                {"example": example},
            )
        return value

    return BeforeValidator(check)


@model_validator(mode="before")
def jwt_settings_together(given: dict[str, Any]) -> dict[str, Any]:
    names = ("jwt_issuer", "jwt_audience", "jwt_jwks_url")
    return {**dict.fromkeys(names), **given} if given.keys() & set(names) else given


# What `ops/issuer.py` calls itself: anyone with a clone can run it.
DEVELOPMENT_ISSUER = "urn:development-issuer"
ISSUER_EXAMPLE = "https://login.example.com/"


def check_issuer(issuer: str, others: ValidationInfo) -> str:
    if issuer == DEVELOPMENT_ISSUER and others.data.get("app_env") == "production":
        raise PydanticCustomError(
            "jwt_issuer",
            "The development issuer is not for production; yours is such as {example}",
            {"example": ISSUER_EXAMPLE},
        )
    return issuer


JwtIssuer = Annotated[str, AfterValidator(check_issuer), jwt_setting(ISSUER_EXAMPLE)]


def check_url(url: str) -> str:
    if url and not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d+)?(/\S*)?", url):
        raise PydanticCustomError(
            "jwks_url",
            "Starts with https:// or http://, such as {example}",
            {"example": JWKS_EXAMPLE},
        )
    return url


JWKS_EXAMPLE = "https://login.example.com/.well-known/jwks.json"
JwksUrl = Annotated[str, AfterValidator(check_url), jwt_setting(JWKS_EXAMPLE)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = app.state.settings.jwt_jwks_url
    app.state.issuer_keys = None
    if not url:
        logger.warning(f"{NOT_SET}: every token is refused")
        yield
        return
    async with IssuerKeys.of(url) as app.state.issuer_keys:
        yield


router = APIRouter(prefix="/v1/me", tags=["auth"], lifespan=lifespan)


@health.check("auth")
async def issuer_is_known(request: Request) -> None:
    """Ready once the issuer's keys were fetched: then it may be down.

    In production, not ready either if no token could ever be valid.
    """
    keys: IssuerKeys | None = request.app.state.issuer_keys
    production = request.app.state.settings.app_env == "production"
    if keys is None:
        if production:
            raise health.NotReadyError(NOT_SET)
    elif not await keys.fetched():
        raise health.NotReadyError("the issuer's keys can't be fetched")
    elif not keys.known and production:
        raise health.NotReadyError("the issuer's key set has no key for RS256 or ES256")


async def verify(token: str, settings: Any, keys: IssuerKeys | None) -> dict[str, Any]:
    """Return the claims of a token that holds here and now (RFC 8725), else raise PyJWTError."""
    if keys is None or len(token) > LONGEST_TOKEN:
        raise jwt.InvalidTokenError
    header = jwt.get_unverified_header(token)
    algorithm = header.get("alg", "")
    if algorithm not in ALGORITHMS.values():
        raise jwt.InvalidAlgorithmError
    key = await keys.find(header.get("kid"), algorithm)
    if key is None:
        raise jwt.InvalidKeyError
    claims = jwt.decode(
        token,
        key,
        [algorithm],
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=LEEWAY_SECONDS,
        options={"require": ["exp", "sub"], "enforce_minimum_key_length": True},
    )
    # It goes to logs, and to whatever counts callers.
    if not claims["sub"] or not claims["sub"].isprintable():
        raise jwt.InvalidTokenError
    return claims


async def authenticate(connection: HTTPConnection) -> Identity:
    """Return whose token a connection brings; raise a 401 if it is not valid."""
    if identity := known(connection):
        return identity
    credentials = await bearer(connection)
    if credentials is None:
        raise HTTPException(401, "A bearer token is needed", {"WWW-Authenticate": CHALLENGE})
    state = connection.app.state
    try:
        claims = await verify(credentials.credentials, state.settings, state.issuer_keys)
    except jwt.PyJWTError as error:
        # In words of ours: the token's own have no place in a header.
        reason = REASONS.get(type(error), "The token is not valid")
        fault = f'{CHALLENGE}, error="invalid_token", error_description="{reason}"'
        raise HTTPException(401, reason, {"WWW-Authenticate": fault}) from error
    return remember(connection, Identity(id=claims["sub"], scopes=granted(claims)))


async def identify(
    connection: HTTPConnection, scheme: Annotated[object, Depends(bearer)]
) -> Identity:
    """Authenticate; `scheme` puts into /docs how that is done."""
    return await authenticate(connection)


def granted(claims: dict[str, Any]) -> list[str]:
    """Read the scopes: `scope` (RFC 8693) or `scp`, as a text with spaces or as a list."""
    scopes: set[str] = set()
    for claim in (claims.get("scope"), claims.get("scp")):
        listed = claim.split() if isinstance(claim, str) else claim
        if isinstance(listed, list):
            scopes.update(scope for scope in listed if isinstance(scope, str) and scope.isascii())
    return sorted(scopes)


# In `dependencies=[...]` of a route or a router: only bearers of a valid token.
required = Depends(identify)
# In a route's signature, `caller: Caller`: the same, and who it is.
Caller = Annotated[Identity, required]


def scopes(*needed: str) -> Any:
    """Where `required` goes: only bearers of a valid token that grants all of `needed`."""

    async def authorize(caller: Caller) -> None:
        if not set(needed) <= set(caller.scopes):
            scope = " ".join(needed)
            fault = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
            raise HTTPException(403, f"The token needs: {scope}", {"WWW-Authenticate": fault})

    return Depends(authorize)


@router.get("")
async def read_me(caller: Caller) -> Identity:
    """Reports who calls: a way to try a token."""
    return caller
