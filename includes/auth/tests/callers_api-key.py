"""A caller whom the service knows, for every test."""

import hashlib

KEY = "my_key_Gj9xPp"


def entry(name: str, key: str, *scopes: str) -> str:
    """What API_KEYS has of a key that grants `scopes`."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return ":".join([name, digest, *(["+".join(scopes)] if scopes else [])])


def environment() -> dict[str, str]:
    """The settings under which the service knows the caller."""
    return {"API_KEYS": entry("tests", KEY)}


def credential(key: str = KEY) -> dict[str, str]:
    """The header that tells who calls."""
    return {"X-API-Key": key}
