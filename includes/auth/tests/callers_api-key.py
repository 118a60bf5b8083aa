"""A caller whom the service knows, for every test."""

import hashlib

KEY = "my_key_Gj9xPp"


def entry(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def environment() -> dict[str, str]:
    """The settings under which the service knows the caller."""
    return {"API_KEYS": entry("tests", KEY)}


def credential(key: str = KEY) -> dict[str, str]:
    """The header that tells who calls."""
    return {"X-API-Key": key}
