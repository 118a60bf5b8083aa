"""The settings: environment variables, checked once at start."""

import sys
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


def _log_format() -> Literal["json", "console"]:
    return "console" if sys.stdout.isatty() else "json"


class Settings(BaseSettings):
    """Each field is the environment variable of its name in capitals; see `.env.example`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True)

    app_env: Annotated[Literal["development", "test", "production"], AnyCase] = "development"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"
    log_format: Annotated[Literal["json", "console"], AnyCase] = Field(default_factory=_log_format)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    docs_enabled: bool = True
    max_body_bytes: int = Field(default=1_048_576, ge=0)
    forwarded_allow_ips: str = "127.0.0.1,::1"
    shutdown_grace_seconds: int = Field(default=6, ge=0)
    # Yours:


def load() -> Settings:
    """Read the environment, or end the process with a line for each fault."""
    try:
        return Settings()
    except ValidationError as error:
        # Never the value: it may be a secret.
        faults = [f"{fault['loc'][0]}".upper() + f": {fault['msg']}" for fault in error.errors()]
        sys.exit("\n".join(faults))
