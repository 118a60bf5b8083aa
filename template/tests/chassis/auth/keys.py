"""API keys for the tests."""

import hashlib

KEY = "my_key_Gj9xPp"


def entry(name: str, key: str, *scopes: str) -> str:
    """Return the entry in API_KEYS for a key that grants `scopes`."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return ":".join([name, digest, *(["+".join(scopes)] if scopes else [])])


def environment() -> dict[str, str]:
    """Return the settings with which the service knows the caller "tests"."""
    return {"API_KEYS": entry("tests", KEY)}


def credential(key: str = KEY) -> dict[str, str]:
    """Return the header that proves who calls."""
    return {"X-API-Key": key}
