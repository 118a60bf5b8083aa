"""The types of text."""

import json
import re

from . import names
from .kind import Kind, RefusedError


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
            raise RefusedError(
                f"{self.name}: the maximum length is from 1 to {self.longest}: such as {self.example}"
            )

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
    def boundary(self) -> tuple[str, ...]:
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
    def boundary(self) -> tuple[str, ...]:
        return (f'"é\\n" * {self.high // 2}',) if self.low <= self.high // 2 * 2 else ()


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
