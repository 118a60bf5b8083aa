"""The type of exact decimals."""

import re
from decimal import Decimal

from .kind import RefusedError
from .numbers import FEW, Number


class Decimals(Number):
    model = read = "Decimal"
    example = "decimal(12,2) or decimal(12,2,0..)"
    digits, count = 12, 2
    most_digits = 28

    def read_args(self, args: str) -> None:
        digits, _, rest = args.partition(",")
        count, comma, bounds = rest.partition(",")
        if not (digits.isdecimal() and count.isdecimal() and len(digits + count) <= 4):
            raise RefusedError(
                f"{self.name}: decimal takes its digits and how many of them are places: such as {self.example}"
            )
        self.digits, self.count = int(digits), int(count)
        if not 1 <= self.digits <= self.most_digits or self.count > self.digits:
            raise RefusedError(
                f"{self.name}: a decimal has 1 to {self.most_digits} digits, and no more places than digits: such as {self.example}"
            )
        if comma:
            self.bound(bounds, self.example)

    @property
    def step(self) -> Decimal:
        return Decimal(1).scaleb(-self.count)

    def convert(self, text: str) -> Decimal:
        if not re.fullmatch(r"-?[0-9]{1,30}([.][0-9]{1,30})?", text):
            raise ValueError
        number = Decimal(text)
        if -number.as_tuple().exponent > self.count:  # type: ignore[operator]
            raise RefusedError(f"{self.name}: {text} has more than {self.count} places")
        # Of a zero, without its sign.
        return number if number else abs(number)

    def ends(self) -> tuple[Decimal, Decimal]:
        most = Decimal(1).scaleb(self.digits - self.count) - self.step
        return -most, most

    def shown(self, number: Decimal) -> str:
        return f'"{number:.{self.count}f}"'

    def literal(self, number: Decimal) -> str:
        return f"Decimal({self.shown(number)})"

    @property
    def column(self) -> str:
        return f"ExactNumeric({self.digits}, {self.count})"

    @property
    def migration(self) -> str:
        return f"sa.Numeric(precision={self.digits}, scale={self.count})"

    @property
    def value(self) -> str:
        ends = [("ge", self.low), ("le", self.high)]
        bounds = "".join(
            f", {name}={self.bound_source(end)}" for name, end in ends if end is not None
        )
        field = f"Field(max_digits={self.digits}, decimal_places={self.count}{bounds})"
        return f"Annotated[Decimal, {field}, places({self.count})]"

    def bound_source(self, end: Decimal) -> str:
        return str(end) if "." not in str(end) else f'Decimal("{end}")'

    def samples(self) -> tuple[Decimal, Decimal]:
        low, high = self.inside()
        for start in (Decimal("12.5"), Decimal(3), Decimal(0)):
            exact = -start.as_tuple().exponent <= self.count  # type: ignore[operator]
            if exact and low <= start < high:
                return start, start + self.step
        return low, min(low + self.step, high)

    @property
    def first(self) -> str:
        return self.shown(self.samples()[0])

    @property
    def other(self) -> str:
        return self.shown(self.samples()[1])

    @property
    def unique(self) -> str | None:
        _, high = self.inside()
        low = Decimal(0) if self.low is None else self.low
        if high - low < FEW:
            return None
        places = f".{'0' * self.count}" if self.count else ""
        start = int(low.to_integral_value()) + 1
        return 'f"{' + str(start) + " + number}" + places + '"'

    @property
    def wrong(self) -> tuple[str, ...]:
        low, high = self.inside()
        finer = f'"0.{"0" * self.count}1"'
        return self.shown(low - self.step), self.shown(high + self.step), finer, 'float("nan")'

    @property
    def most(self) -> tuple[str, ...]:
        low, high = self.inside()
        return self.shown(low), self.shown(high)
