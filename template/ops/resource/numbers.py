"""The types of numbers except decimals, and what these share with them."""

import re
from abc import ABC, abstractmethod
from decimal import InvalidOperation
from typing import Any

from . import names
from .kind import Kind, RefusedError

# A field with fewer values can't be unique: tests need a new value each time.
FEW = 1000
LARGEST = {"int": 2**31 - 1, "bigint": 2**63 - 1}
ENDS = {2**31 - 1: "2**31 - 1", -(2**31): "-(2**31)", 2**63 - 1: "2**63 - 1", -(2**63): "-(2**63)"}


def source(number: Any) -> str:
    return ENDS.get(number, str(number))


class Number(Kind, ABC):
    """What the types with bounds share."""

    low: Any = None
    high: Any = None
    step: Any = 1

    @abstractmethod
    def convert(self, text: str) -> Any:
        """Return the number that a text means; raise ValueError if it is none."""

    @abstractmethod
    def ends(self) -> tuple[Any, Any]:
        """Return the smallest and the largest value that the column can hold."""

    def inside(self) -> tuple[Any, Any]:
        """Return the smallest and the largest value that the field can have."""
        least, most = self.ends()
        return least if self.low is None else self.low, most if self.high is None else self.high

    def bound(self, args: str, example: str) -> None:
        self.low, self.high = self.span(args, self.convert, example)
        least, most = self.ends()
        for end in (self.low, self.high):
            if end is not None and not least <= end <= most:
                raise RefusedError(
                    f"{self.name}: {end} does not fit: a bound is from {least} to {most}"
                )

    def is_inside(self, number: Any) -> bool:
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )

    def condition(self) -> tuple[str, str] | None:
        column = names.quoted(self.name)
        if self.low is None and self.high is None:
            return None
        if self.low is not None and self.high is not None:
            return f"{self.name}_range", f"{column} BETWEEN {self.low} AND {self.high}"
        end = f">= {self.low}" if self.high is None else f"<= {self.high}"
        return f"{self.name}_range", f"{column} {end}"

    def default(self, text: str) -> str:
        try:
            number = self.convert(text)
        except (ValueError, InvalidOperation):
            raise RefusedError(
                f"{self.name}: the default {text!r} is no number: such as =0"
            ) from None
        least, most = self.ends()
        if not (self.is_inside(number) and least <= number <= most):
            raise RefusedError(f"{self.name}: the default {text} is out of its bounds")
        return self.literal(number)

    def literal(self, number: Any) -> str:
        return str(number)

    def samples(self) -> tuple[Any, Any]:
        found = [n for n in (self.convert("3"), self.convert("4")) if self.is_inside(n)]
        if self.low is not None:
            found += [n for n in (self.low, self.low + self.step) if self.is_inside(n)]
        if self.high is not None:
            found += [n for n in (self.high, self.high - self.step) if self.is_inside(n)]
        return found[0], next((n for n in found if n != found[0]), found[0])


class Int(Number):
    model = read = "int"
    column = ""
    migration = "sa.Integer()"
    largest = LARGEST["int"]

    def read_args(self, args: str) -> None:
        self.bound(args, "int(0..) or int(1..10)")

    def convert(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text):
            raise ValueError
        return int(text)

    def ends(self) -> tuple[int, int]:
        return -self.largest - 1, self.largest

    @property
    def value(self) -> str:
        low, high = self.inside()
        return f"Annotated[int, Field(strict=True, ge={source(low)}, le={source(high)})]"

    @property
    def first(self) -> str:
        return str(self.samples()[0])

    @property
    def other(self) -> str:
        return str(self.samples()[1])

    @property
    def unique(self) -> str | None:
        low, high = self.inside()
        if high - low < FEW:
            return None
        start = 0 if self.is_inside(0) and self.is_inside(FEW) else low
        if self.low is None and not self.is_inside(FEW):
            start = high - FEW
        return "number" if start == 0 else f"{start} + number"

    @property
    def wrong(self) -> tuple[str, ...]:
        low, high = self.inside()
        below = "-(2**31) - 1" if low == -(2**31) else str(low - 1)
        above = "2**31" if high == 2**31 - 1 else "2**63" if high == 2**63 - 1 else str(high + 1)
        return below, above, '"1"', "1e999"

    @property
    def boundary(self) -> tuple[str, ...]:
        low, high = self.inside()
        return source(low), source(high)


class BigInt(Int):
    column = "BigInteger"
    migration = "sa.BigInteger()"
    largest = LARGEST["bigint"]


class Float(Number):
    model = read = "float"
    migration = "sa.Double()"

    def read_args(self, args: str) -> None:
        self.bound(args, "float(0..1)")

    def convert(self, text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,15}([.][0-9]{1,15})?", text):
            raise ValueError
        return float(text) + 0.0

    def ends(self) -> tuple[float, float]:
        return -1e15, 1e15

    @property
    def value(self) -> str:
        ends = [("ge", self.low), ("le", self.high)]
        bounds = "".join(f", {name}={end}" for name, end in ends if end is not None)
        return f"Annotated[float, Field(strict=True, allow_inf_nan=False{bounds})]"

    @property
    def first(self) -> str:
        return str(0.5 if self.is_inside(0.5) else self.samples()[0])

    @property
    def other(self) -> str:
        second = 0.25 if self.is_inside(0.25) else self.samples()[1]
        return str(second)

    @property
    def wrong(self) -> tuple[str, ...]:
        below = () if self.low is None else (str(self.low - 1),)
        above = () if self.high is None else (str(self.high + 1),)
        return (*below, *above, '"1"', 'float("nan")', "1e999")

    @property
    def boundary(self) -> tuple[str, ...]:
        low = "-1.7976931348623157e308" if self.low is None else str(self.low)
        high = "1.7976931348623157e308" if self.high is None else str(self.high)
        return low, high
