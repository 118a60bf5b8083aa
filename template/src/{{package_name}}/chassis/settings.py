"""The settings: environment variables, checked once at start."""

import re
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, LiteralString, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

# The name of the package that contains this folder, and that of its distribution and image.
PACKAGE = __name__.partition(".")[0]
DISTRIBUTION = re.sub("_+", "-", PACKAGE).strip("-")

S = TypeVar("S", bound="EnvironmentSettings")
AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


def _split(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]


def _each(holds: Callable[[str], object], rule: LiteralString) -> AfterValidator:
    def check(items: list[str]) -> list[str]:
        if not all(holds(item) for item in items):
            raise PydanticCustomError("item", rule)
        return items

    return AfterValidator(check)


def _is_network(peer: str) -> bool:
    try:
        ip_network(peer)
    except ValueError:
        return peer == "*"
    return True


# Origins have no path (RFC 6454): one with a slash at its end would never match.
Origins = _each(
    re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@*]+").fullmatch,
    "Each should be an origin such as https://shop.example.com, without a path or a slash, or *",
)
Hosts = _each(
    re.compile(r"\*|(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]").fullmatch,
    "Each should be a name such as shop.example.com or *.example.com, without scheme or port, or *",
)
Networks = _each(
    _is_network, "Each should be an address or a network, such as 10.0.0.1 or 10.0.0.0/8, or *"
)

# Where Docker and Kubernetes put secrets: one file per variable, with its name.
SECRETS = Path("/run/secrets")


def _log_format() -> Literal["json", "console"]:
    return "console" if sys.stdout.isatty() else "json"


class EnvironmentSettings(BaseSettings):
    """The base of all settings; a field is the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        frozen=True,
        # A value may be a secret.
        hide_input_in_errors=True,
        # If the folder is missing, pydantic-settings would warn at every start.
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_env: Annotated[Literal["development", "test", "production"], AnyCase] = "development"


class Settings(EnvironmentSettings):
    """The settings of the process; see `.env.example`."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"
    log_format: Annotated[Literal["json", "console"], AnyCase] = Field(default_factory=_log_format)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    docs_enabled: bool = True
    max_body_bytes: int = Field(default=1_048_576, ge=0)
    max_total_body_bytes: int = Field(default=8_388_608, ge=0)
    max_buffered_bytes: int = Field(default=16_777_216, ge=0)
    max_concurrent_requests: int = Field(default=500, ge=1)
    max_connections: int = Field(default=800, ge=1)
    request_head_timeout_seconds: float = Field(default=10, gt=0)
    stall_timeout_seconds: float = Field(default=30, gt=0)
    allowed_hosts: Annotated[CommaList, Hosts] = ["*"]
    cors_origins: Annotated[CommaList, Origins] = []
    forwarded_allow_ips: Annotated[CommaList, Networks] = ["127.0.0.1", "::1"]
    revision: str = "unknown"
    shutdown_delay_seconds: float | None = Field(default=None, ge=0)
    shutdown_grace_seconds: int = Field(default=6, ge=0)

    @property
    def shutdown_delay(self) -> float:
        """Seconds from SIGTERM to the stop; only production has balancers to wait for."""
        if self.shutdown_delay_seconds is None:
            return 3 if self.app_env == "production" else 0
        return self.shutdown_delay_seconds


def load(settings: type[S]) -> S:
    """Read the environment, or end the process with one line for each fault."""
    try:
        return settings()
    except SettingsError as error:
        if isinstance(error.__cause__, OSError | UnicodeError):
            sys.exit(f"{SECRETS} can't be read: {error.__cause__}")
        # The type of one of your fields is read from JSON, and its value is not JSON.
        sys.exit(str(error))
    except ValidationError as error:
        # Never the value: it may be a secret.
        sys.exit("\n".join(_name(fault["loc"]) + fault["msg"] for fault in error.errors()))


def _name(location: tuple[int | str, ...]) -> str:
    # A rule about several fields belongs to none of them.
    return f"{location[0]}: ".upper() if location else ""
