"""The settings: environment variables, checked once at start."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


def _split(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
# Where Docker and Kubernetes put secrets: a file a variable, named like it.
SECRETS = Path("/run/secrets")


def _log_format() -> Literal["json", "console"]:
    return "console" if sys.stdout.isatty() else "json"


class Settings(BaseSettings):
    """Each field is the environment variable of its name in capitals; see `.env.example`."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        frozen=True,
        # A value may be a secret.
        hide_input_in_errors=True,
        # A missing folder would be warned of at every start.
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    app_env: Annotated[Literal["development", "test", "production"], AnyCase] = "development"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"
    log_format: Annotated[Literal["json", "console"], AnyCase] = Field(default_factory=_log_format)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    docs_enabled: bool = True
    max_body_bytes: int = Field(default=1_048_576, ge=0)
    allowed_hosts: CommaList = ["*"]
    cors_origins: CommaList = []
    forwarded_allow_ips: str = "127.0.0.1,::1"
    revision: str = "unknown"
    shutdown_delay_seconds: float | None = Field(default=None, ge=0)
    shutdown_grace_seconds: int = Field(default=6, ge=0)
    # Yours:

    @property
    def shutdown_delay(self) -> float:
        """Seconds from SIGTERM to the stop; only production has balancers to wait for."""
        if self.shutdown_delay_seconds is None:
            return 3 if self.app_env == "production" else 0
        return self.shutdown_delay_seconds


def load() -> Settings:
    """Read the environment, or end the process with a line for each fault."""
    try:
        return Settings()
    except SettingsError as error:
        if isinstance(error.__cause__, OSError | UnicodeError):
            sys.exit(f"{SECRETS} can't be read: {error.__cause__}")
        # A field of yours that is read as JSON, where none is.
        sys.exit(str(error))
    except ValidationError as error:
        # Never the value: it may be a secret.
        sys.exit("\n".join(_name(fault["loc"]) + fault["msg"] for fault in error.errors()))


def _name(location: tuple[int | str, ...]) -> str:
    # A rule about several fields at once has no place of its own.
    return f"{location[0]}: ".upper() if location else ""
