"""The part of the service that the template maintains; import its names from here."""

from .app import create_app
from .errors import problem
from .feature import Check, DegradedError, Feature, NotReadyError
from .main import Command, main
from .service import Service, settings_of, state_of
from .settings import CommaList, EnvironmentSettings, Settings, load
from .shutdown import Stop, until

__all__ = [
    "Check",
    "CommaList",
    "Command",
    "DegradedError",
    "EnvironmentSettings",
    "Feature",
    "NotReadyError",
    "Service",
    "Settings",
    "Stop",
    "create_app",
    "load",
    "main",
    "problem",
    "settings_of",
    "state_of",
    "until",
]
