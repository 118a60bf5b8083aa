"""A type of field: its column, its values in requests, and examples for the tests."""

from decimal import InvalidOperation
from typing import Any


class RefusedError(Exception):
    """Nothing is written; the message is one line with the rule and an example."""


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
    boundary: tuple[str, ...] = ()
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
