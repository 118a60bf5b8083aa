"""The types of fields: their columns, their values in requests, and examples for the tests."""

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from . import names

# A field with fewer values can't be unique: tests need a new value each time.
FEW = 1000
LARGEST = {"int": 2**31 - 1, "bigint": 2**63 - 1}
ENDS = {2**31 - 1: "2**31 - 1", -(2**31): "-(2**31)", 2**63 - 1: "2**63 - 1", -(2**63): "-(2**63)"}


class RefusedError(Exception):
    """Nothing is written; the message is one line with the rule and an example."""


def source(number: Any) -> str:
    return ENDS.get(number, str(number))


class Kind:
    """A type of field. Attributes are Python source for the templates, unless they say otherwise."""

    model = ""
    """What the model is annotated with."""
    column = ""
    """Arguments of `mapped_column`."""
    migration = ""
    """The column's type in a migration."""
    value = ""
    """What a request may contain."""
    read = ""
    """What a response contains."""
    first, other = "", ""
    """Two valid values, as JSON returns them."""
    unique: str | None = None
    """A value that depends on `number`; None if the field can't be unique."""
    wrong: tuple[str, ...] = ()
    """Values that are refused."""
    most: tuple[str, ...] = ()
    """Valid values at the limits."""

    def __init__(self, name: str, args: str | None) -> None:
        self.name = name
        if args is not None:
            self.read_args(args)

    def read_args(self, args: str) -> None:
        raise RefusedError(f"{self.name}: {type(self).__name__.lower()} takes nothing in brackets")

    def span(self, text: str, convert: Any, example: str) -> tuple[Any, Any]:
        """Read `low..high`, either of which may be left out."""
        low, dots, high = text.partition("..")
        try:
            bounds = tuple(convert(end) if end else None for end in (low, high))
        except (ValueError, InvalidOperation):
            dots = ""
        if not dots or bounds == (None, None):
            raise RefusedError(f"{self.name}: {text!r} is no range: such as {example}")
        if None not in bounds and bounds[0] > bounds[1]:
            raise RefusedError(f"{self.name}: {text!r} is an empty range: such as {example}")
        return bounds[0], bounds[1]

    def default(self, text: str) -> str:
        raise RefusedError(f"{self.name}: a {type(self).__name__.lower()} has no default")

    def condition(self) -> tuple[str, str] | None:
        """Return the name and the text of a CHECK constraint."""
        return None


class Str(Kind):
    model = read = "str"
    low, high = 1, 200
    longest = 10_000
    characters = r"^[^\x00-\x1f\x7f]*$"
    example = "str(100) or str(3..20)"

    def read_args(self, args: str) -> None:
        if args.isdecimal():
            args = f"..{args}"
        low, high = self.span(args, int, self.example)
        self.high = max(low or 1, type(self).high) if high is None else high
        self.low = min(type(self).low, self.high) if low is None else low
        if not 0 <= self.low <= self.high <= self.longest or not self.high:
            limit = (
                f"{self.name}: a text is at most 1 to {self.longest} long: such as {self.example}"
            )
            raise RefusedError(limit)

    @property
    def column(self) -> str:
        return f"String({self.high})"

    @property
    def migration(self) -> str:
        return f"sa.String(length={self.high})"

    @property
    def value(self) -> str:
        least = f"min_length={self.low}, " if self.low else ""
        return f'Annotated[str, Field({least}max_length={self.high}, pattern=r"{self.characters}")]'

    def fit(self, text: str) -> str:
        return json.dumps(text[: self.high].strip().ljust(self.low, "."))

    @property
    def first(self) -> str:
        return self.fit(self.name.replace("_", " "))

    @property
    def other(self) -> str:
        return self.fit("other")

    @property
    def unique(self) -> str | None:
        if self.high < 4 or self.high > 600:
            return None
        words = self.name.replace("_", " ")[: max(self.high - 5, 0)].strip()
        digits = max(self.low - len(words) - 1, 1)
        shown = "{number}" if digits == 1 else "{number:0" + str(digits) + "}"
        return f'f"{words} {shown}"' if words else f'f"{shown}"'

    @property
    def wrong(self) -> tuple[str, ...]:
        inside = "a" * max(self.low - 1, 0)
        short = ('""',) if self.low == 1 else (f'"a" * {self.low - 1}',) if self.low else ()
        bad = [inside + "\0", inside + "\ud800"] if self.high > len(inside) else []
        return (*short, f'"a" * {self.high + 1}', *(json.dumps(text) for text in bad))

    @property
    def most(self) -> tuple[str, ...]:
        return (f'"😀" * {self.high}',)

    def default(self, text: str) -> str:
        if not re.fullmatch(r"[\w.+/@:-]+", text):
            raise RefusedError(
                f"{self.name}: a default is one word of letters, digits and .+/@:-_, such as =none"
            )
        if not self.low <= len(text) <= self.high:
            raise RefusedError(
                f"{self.name}: the default {text!r} has not {self.low} to {self.high} characters"
            )
        return json.dumps(text, ensure_ascii=False)


class Text(Str):
    low, high = 0, 10_000
    longest = 100_000
    characters = r"^[^\x00]*$"
    example = "text(1000)"
    column = "Text"
    migration = "sa.Text()"
    unique = None

    @property
    def most(self) -> tuple[str, ...]:
        return (f'"é\\n" * {self.high // 2}',) if self.low <= self.high // 2 * 2 else ()


class Number(Kind):
    """What the types with bounds share."""

    low: Any = None
    high: Any = None
    step: Any = 1

    def convert(self, text: str) -> Any:
        raise NotImplementedError

    def ends(self) -> tuple[Any, Any]:
        """Return the smallest and the largest value that the column can hold."""
        raise NotImplementedError

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

    def inside(self) -> tuple[int, int]:
        least, most = self.ends()
        return least if self.low is None else self.low, most if self.high is None else self.high

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
    def most(self) -> tuple[str, ...]:
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
    def most(self) -> tuple[str, ...]:
        low = "-1.7976931348623157e308" if self.low is None else str(self.low)
        high = "1.7976931348623157e308" if self.high is None else str(self.high)
        return low, high


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
        least, most = self.ends()
        low = least if self.low is None else self.low
        high = most if self.high is None else self.high
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
        least, most = self.ends()
        low = Decimal(0) if self.low is None else self.low
        high = most if self.high is None else self.high
        if high - low < FEW:
            return None
        places = f".{'0' * self.count}" if self.count else ""
        start = int(low.to_integral_value()) + 1
        return 'f"{' + str(start) + " + number}" + places + '"'

    @property
    def wrong(self) -> tuple[str, ...]:
        least, most = self.ends()
        low = least if self.low is None else self.low
        high = most if self.high is None else self.high
        finer = f'"0.{"0" * self.count}1"'
        return self.shown(low - self.step), self.shown(high + self.step), finer, 'float("nan")'

    @property
    def most(self) -> tuple[str, ...]:
        least, most = self.ends()
        low = least if self.low is None else self.low
        high = most if self.high is None else self.high
        return self.shown(low), self.shown(high)


class Bool(Kind):
    model = read = "bool"
    migration = "sa.Boolean()"
    value = "Annotated[bool, Field(strict=True)]"
    first, other = "True", "False"
    wrong = ("1", '"yes"')

    def default(self, text: str) -> str:
        if text not in ("true", "false"):
            raise RefusedError(f"{self.name}: a default of bool is =true or =false, not ={text}")
        return text.capitalize()


class Date(Kind):
    model = read = "dt.date"
    migration = "sa.Date()"
    value = "Day"
    first, other = '"2026-01-31"', '"2026-02-01"'
    unique = "str(dt.date(2026, 1, 31) + dt.timedelta(days=number))"
    wrong = ("1", '"2026-02-30"', '"2026-01-31T00:00:00"')
    most = ('"0001-01-01"', '"9999-12-31"')


class DateTime(Kind):
    model = read = "dt.datetime"
    column = "UtcDateTime"
    migration = "sa.DateTime(timezone=True)"
    value = "Moment"
    first, other = '"2026-01-31T12:00:00Z"', '"2026-01-31T12:00:01Z"'
    unique = 'f"2026-01-31T12:00:00.{number:06}Z"'
    wrong = ("1", '"2026-01-31T12:00:00"', '"0001-01-01T00:00:00+12:00"')
    most = ('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"')


class Uuid(Kind):
    model = read = "UUID"
    migration = "sa.Uuid()"
    value = "Key"
    first = '"123e4567-e89b-42d3-a456-426614174000"'
    other = '"123e4567-e89b-42d3-a456-426614174001"'
    unique = "str(UUID(int=number))"
    wrong = ("1", '"123"')


class Json(Kind):
    model = read = "Any"
    column = "JSON(none_as_null=True)"
    migration = "sa.JSON(none_as_null=True)"
    value = "Json"
    first, other = '{"a": [1, None, "é"]}', "[]"
    wrong = ('"\\0"', '{"\\ud800": 1}', '[float("nan")]')
    most = ('""', "{}", "False", "2**70")


class Enum(Kind):
    model = read = "str"
    column = "String(50)"
    migration = "sa.String(length=50)"
    values: list[str]

    def __init__(self, name: str, args: str | None) -> None:
        super().__init__(name, args or "")

    def read_args(self, args: str) -> None:
        self.values = args.split(",")
        word = r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}"
        if len(set(self.values)) < len(self.values) or not all(
            re.fullmatch(word, value) for value in self.values
        ):
            raise RefusedError(
                f"{self.name}: enum lists different words of letters, digits, _ and -, at most 50 each: such as enum(open,paid)"
            )

    @property
    def value(self) -> str:
        return f"Literal[{', '.join(json.dumps(value) for value in self.values)}]"

    @property
    def first(self) -> str:
        return json.dumps(self.values[0])

    @property
    def other(self) -> str:
        return json.dumps(self.values[-1])

    @property
    def wrong(self) -> tuple[str, ...]:
        return (
            '""',
            json.dumps(f"{self.values[0]}-")[:60]
            if f"{self.values[0]}-" not in self.values
            else '"?"',
            "1",
        )

    def condition(self) -> tuple[str, str]:
        values = ", ".join(f"'{value}'" for value in self.values)
        return f"{self.name}_known", f"{names.quoted(self.name)} IN ({values})"

    def default(self, text: str) -> str:
        if text not in self.values:
            raise RefusedError(
                f"{self.name}: the default {text!r} is none of {', '.join(self.values)}"
            )
        return json.dumps(text)


class Ref(Kind):
    model = read = "int"
    migration = "sa.BigInteger()"
    value = "Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]"
    wrong = ("0", "2**63", '"1"')
    target = ""
    """What `ForeignKey` gets: the attribute of another model, or "table.id" of this one."""
    is_own = False
    """Whether it refers to its own resource."""

    def __init__(self, name: str, args: str | None) -> None:
        super().__init__(name, args or "")

    def read_args(self, args: str) -> None:
        self.table = args
        if not names.is_word(args, 40):
            raise RefusedError(f"{self.name}: ref names another resource: such as ref(customers)")

    @property
    def column(self) -> str:
        return f"BigInteger, ForeignKey({self.target})"

    @property
    def first(self) -> str:
        return f'insert(client, "{self.table}")'

    other = unique = first


KINDS: dict[str, type[Kind]] = {
    "str": Str,
    "text": Text,
    "int": Int,
    "bigint": BigInt,
    "float": Float,
    "decimal": Decimals,
    "bool": Bool,
    "date": Date,
    "datetime": DateTime,
    "uuid": Uuid,
    "json": Json,
    "enum": Enum,
    "ref": Ref,
}
