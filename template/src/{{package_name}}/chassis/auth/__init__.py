"""Who may call: the same dependencies for API keys and tokens, for HTTP and WebSockets."""

from typing import Annotated

from fastapi import Depends
from fastapi.params import Depends as Dependency
from fastapi.requests import HTTPConnection

from ..service import state_of
from .callers import Authenticator, Identity, identify

__all__ = ["Caller", "Identity", "identify", "required", "scopes"]

# In `dependencies=[...]` of a route or a router: lets only authenticated callers in.
required: Dependency = Depends(identify)
# In a route's signature, `caller: Caller`: the same, and passes who calls.
Caller = Annotated[Identity, required]


def scopes(*needed: str) -> Dependency:
    """Make a dependency, used like `required`: only callers with all of the `needed` scopes."""

    async def authorize(connection: HTTPConnection, caller: Caller) -> None:
        if not set(needed) <= set(caller.scopes):
            raise state_of(connection, Authenticator).forbidden(" ".join(needed))

    dependency: Dependency = Depends(authorize)
    return dependency
