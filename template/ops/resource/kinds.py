"""The types that are neither texts nor numbers, and the list of all types."""

from . import names
from .decimals import Decimals
from .kind import Kind, RefusedError
from .numbers import BigInt, Float, Int
from .texts import Enum, Str, Text


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
    boundary = ('"0001-01-01"', '"9999-12-31"')


class DateTime(Kind):
    model = read = "dt.datetime"
    column = "UtcDateTime"
    migration = "sa.DateTime(timezone=True)"
    value = "Moment"
    first, other = '"2026-01-31T12:00:00Z"', '"2026-01-31T12:00:01Z"'
    unique = 'f"2026-01-31T12:00:00.{number:06}Z"'
    wrong = ("1", '"2026-01-31T12:00:00"', '"0001-01-01T00:00:00+12:00"')
    boundary = ('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"')


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
    first, other = '{"a": [1, None, "é"]}', "[1]"
    wrong = ('"\\0"', '{"\\ud800": 1}', '[float("nan")]', "2**63", '"a" * 9_999')
    boundary = ('""', "{}", "False", "2**63 - 1", '"é" * 9_998')


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
        if not names.is_word(args):
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
