"""The type of exact decimals."""

import re
from decimal import Decimal

from .kind import RefusedError
from .numbers import FEW, Number


class Decimals(Number):
    model = read = "Decimal"
    example = "decimal(12,2) or decimal(12,2,0..)"
    digits, places = 12, 2
    most_digits = 28

    def read_args(self, args: str) -> None:
        digits, _, rest = args.partition(",")
        places, comma, bounds = rest.partition(",")
        if not (digits.isdecimal() and places.isdecimal() and len(digits + places) <= 4):
            raise RefusedError(
                f"{self.name}: decimal takes its digits and how many of them follow the point: such as {self.example}"
            )
        self.digits, self.places = int(digits), int(places)
        if not 1 <= self.digits <= self.most_digits or self.places > self.digits:
            raise RefusedError(
                f"{self.name}: a decimal has 1 to {self.most_digits} digits, and no more places than digits: such as {self.example}"
            )
        if comma:
            self.bound(bounds, self.example)

    @property
    def step(self) -> Decimal:
        return Decimal(1).scaleb(-self.places)

    def convert(self, text: str) -> Decimal:
        if not re.fullmatch(r"-?[0-9]{1,30}([.][0-9]{1,30})?", text):
            raise ValueError
        number = Decimal(text)
        if -number.as_tuple().exponent > self.places:  # type: ignore[operator]
            raise RefusedError(f"{self.name}: {text} has more than {self.places} places")
        # Of a zero, without its sign.
        return number if number else abs(number)

    def ends(self) -> tuple[Decimal, Decimal]:
        most = Decimal(1).scaleb(self.digits - self.places) - self.step
        return -most, most

    def shown(self, number: Decimal) -> str:
        return f'"{number:.{self.places}f}"'

    def literal(self, number: Decimal) -> str:
        return f"Decimal({self.shown(number)})"

    @property
    def column(self) -> str:
        return f"ExactNumeric({self.digits}, {self.places})"

    @property
    def migration(self) -> str:
        return f"sa.Numeric(precision={self.digits}, scale={self.places})"

    @property
    def value(self) -> str:
        ends = [("ge", self.low), ("le", self.high)]
        bounds = "".join(
            f", {name}={self.bound_source(end)}" for name, end in ends if end is not None
        )
        field = f"Field(max_digits={self.digits}, decimal_places={self.places}{bounds})"
        return f"Annotated[Decimal, {field}, places({self.places})]"

    def bound_source(self, end: Decimal) -> str:
        return str(end) if "." not in str(end) else f'Decimal("{end}")'

    def samples(self) -> tuple[Decimal, Decimal]:
        low, high = self.inside()
        for start in (Decimal("12.5"), Decimal(3), Decimal(0)):
            exact = -start.as_tuple().exponent <= self.places  # type: ignore[operator]
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
        zeros = f".{'0' * self.places}" if self.places else ""
        start = int(low.to_integral_value()) + 1
        return 'f"{' + str(start) + " + number}" + zeros + '"'

    @property
    def wrong(self) -> tuple[str, ...]:
        low, high = self.inside()
        finer = f'"0.{"0" * self.places}1"'
        return self.shown(low - self.step), self.shown(high + self.step), finer, 'float("nan")'

    @property
    def boundary(self) -> tuple[str, ...]:
        low, high = self.inside()
        return self.shown(low), self.shown(high)
