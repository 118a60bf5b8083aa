"""What API keys and tokens share: /v1/me, readiness, the security scheme in OpenAPI."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.encoders import jsonable_encoder
from fastapi.security.base import SecurityBase
from starlette.middleware import Middleware

from ..feature import Feature
from ..service import Service, state_of
from ..settings import EnvironmentSettings
from . import Caller
from .callers import SCHEME, Authenticator, Identity
from .unread_bodies import AuthenticateFirst

router = APIRouter(prefix="/v1/me", tags=["auth"])


@router.get("")
async def read_me(caller: Caller) -> Identity:
    """Return who calls: use it to try an API key or a token."""
    return caller


async def check(service: Service) -> None:
    await state_of(service, Authenticator).check()


def describe(scheme: SecurityBase, document: dict[str, Any]) -> None:
    """Put `scheme` in place of the placeholder in an OpenAPI document."""
    schemes = document["components"]["securitySchemes"]
    del schemes[SCHEME.scheme_name]
    schemes[scheme.scheme_name] = jsonable_encoder(scheme.model, exclude_none=True)
    names = {SCHEME.scheme_name: scheme.scheme_name}
    for operations in document["paths"].values():
        for operation in operations.values():
            if "security" in operation:
                operation["security"] = [
                    {names.get(name, name): scopes for name, scopes in requirement.items()}
                    for requirement in operation["security"]
                ]


def authentication(
    settings: type[EnvironmentSettings],
    lifespan: Callable[[Service], AbstractAsyncContextManager[Authenticator]],
    scheme: SecurityBase,
) -> Feature:
    """Make the feature that authenticates with the Authenticator which `lifespan` yields."""
    return Feature(
        name="auth",
        settings=settings,
        lifespan=lifespan,
        checks={"auth": check},
        routers=[router],
        middleware=[Middleware(AuthenticateFirst)],
        describe=partial(describe, scheme),
    )
