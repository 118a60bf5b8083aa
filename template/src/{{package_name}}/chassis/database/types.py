"""Types of columns, and of the values in requests that they can hold."""

import json
import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, WithJsonSchema
from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Numeric
from sqlalchemy.types import TypeDecorator, TypeEngine

__all__ = [
    "Day",
    "ExactNumeric",
    "Id",
    "Json",
    "Key",
    "Moment",
    "UtcDateTime",
    "places",
]

# SQLite generates ids for INTEGER columns only, which hold 64 bits there.
Id = BigInteger().with_variant(Integer(), "sqlite")
# Levels of lists and objects: parsers of JSON recurse.
DEEPEST = 50
# Characters of a JSON value: parsed, each may take 25 bytes, and a page has 100 rows.
LONGEST = 10_000


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: with a time zone in Python, in UTC when read; SQLite has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value and value.tzinfo is None:
            raise ValueError("a point in time needs a time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


class ExactNumeric(TypeDecorator[Decimal]):
    """A decimal number; SQLite, which has none, keeps up to 15 digits exactly."""

    impl = Numeric
    cache_ok = True

    def __init__(self, precision: int, scale: int) -> None:
        super().__init__(precision, scale)
        self.precision, self.scale = precision, scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        exact: Numeric[Decimal] = Numeric(self.precision, self.scale)
        exact.asdecimal = dialect.name != "sqlite"
        return dialect.type_descriptor(exact)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return float(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(f"{value:.{self.scale}f}")


def places(count: int) -> AfterValidator:
    """Return a validator that writes decimals with `count` places, as the database returns them."""

    def quantize(value: Decimal) -> Decimal:
        # Without the sign of a zero, which databases don't keep.
        return abs(value).quantize(Decimal(1).scaleb(-count)) * (-1 if value < 0 else 1)

    return AfterValidator(quantize)


def _looks_like(example: str, pattern: str) -> BeforeValidator:
    # Pydantic also takes numbers and other forms, which the API's description leaves out.
    def check(value: Any) -> Any:
        if not (isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)):
            raise ValueError(f"should look like {example}")
        return value

    return BeforeValidator(check)


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("should be between the years 1 and 9999 in UTC") from None


def _storable(value: Any) -> Any:
    """Refuse null, and what some database or JSON parser does not keep."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"should have at most {DEEPEST} levels")
        below: list[Any] = []
        for found in level:
            _check(found)
            if isinstance(found, dict):
                below += [*found, *found.values()]
            elif isinstance(found, list):
                below += found
        level = below
    if value is None:
        raise ValueError("should not be null")
    if len(json.dumps(value, ensure_ascii=False)) > LONGEST:
        raise ValueError(f"should have at most {LONGEST} characters as JSON")
    return value


def _check(value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("should have integers of 64 bits only")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("should have finite numbers only")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise ValueError("should have no NUL and no lone surrogate")


Day = Annotated[date, _looks_like("2026-01-31", r"\d{4}-\d\d-\d\d")]
Moment = Annotated[
    AwareDatetime,
    AfterValidator(_utc),
    _looks_like(
        "2026-01-31T12:00:00Z",
        r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)",
    ),
]
Key = Annotated[
    UUID,
    _looks_like(
        "123e4567-e89b-42d3-a456-426614174000", "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    ),
]
Json = Annotated[
    Any,
    AfterValidator(_storable),
    WithJsonSchema({"type": ["object", "array", "string", "number", "boolean"]}),
]
