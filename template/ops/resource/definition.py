"""What a resource is: its names and fields, read from NAME, SINGULAR and FIELDS."""

import keyword
import re
from functools import cached_property

from . import names
from .field import Field
from .kind import Kind, RefusedError
from .kinds import KINDS, Ref

FIELD = re.compile(
    r"(?P<name>[^:()=]*):(?P<type>[^()?!=]*)(\((?P<args>[^()]*)\))?(?P<flags>[?!]*)(=(?P<default>.*))?"
)
EXAMPLE = 'FIELDS="customer:str quantity:int(0..)=0 due:date?"'
RECORDED = re.compile(r'make resource NAME=(\S+)(?: SINGULAR=(\S+))? FIELDS="([^"]*)"')
# PostgreSQL cuts longer names off.
LONGEST = 63


class Definition:
    """A resource that can be written; any other raises `RefusedError`.

    `name` is its plural and `one` its singular, as identifiers; `cls` names the model. For texts
    there are `many` and `words`, such as "order lines" and "order line", `title` and `an`.
    """

    def __init__(self, name: str, fields: str, singular: str = "") -> None:
        self.name = name
        self.given_singular = singular
        self.one = self._singular(name, singular)
        self.cls = names.camel(self.one)
        self._check_singular()
        self.fields = self._fields(re.sub(r",\s+", ",", fields).split())
        self._check_identifiers()

    @classmethod
    def recorded(cls, docstring: str) -> "Definition | None":
        """Return the definition that a written `__init__.py` contains."""
        found = RECORDED.search(docstring)
        return found and cls(found[1], found[3], found[2] or "")

    @property
    def command(self) -> str:
        given = f" SINGULAR={self.given_singular}" if self.given_singular else ""
        fields = " ".join(field.text for field in self.fields)
        return f'make resource NAME={self.name}{given} FIELDS="{fields}"'

    @property
    def words(self) -> str:
        return self.one.replace("_", " ")

    @property
    def many(self) -> str:
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        return self.many.capitalize()

    @property
    def an(self) -> str:
        return names.with_article(self.words)

    @property
    def path(self) -> str:
        return f"/v1/{self.name.replace('_', '-')}"

    @cached_property
    def conditions(self) -> list[tuple[str, str]]:
        found = [field.kind.condition() for field in self.fields]
        return [condition for condition in found if condition]

    @property
    def unique(self) -> list[Field]:
        return [field for field in self.fields if field.unique]

    @property
    def refs(self) -> list[Ref]:
        return [field.kind for field in self.fields if isinstance(field.kind, Ref)]

    @property
    def changed(self) -> Field:
        """Return the field that the tests change: one with two values, if there is one."""
        fields = [field for field in self.fields if not field.unique]
        differ = [field for field in fields if field.kind.first != field.kind.other]
        return (differ or fields or self.fields)[0]

    @property
    def taken(self) -> str:
        words = " or ".join(field.words for field in self.unique)
        return f"Another {self.words} has that {words}"

    def _singular(self, name: str, given: str) -> str:
        if not names.is_word(name):
            raise RefusedError(
                f"{name!r} is not a valid name: a plural of at most 40 letters a-z, digits and _, such as NAME=orders"
            )
        if names.is_of_python(name):
            raise RefusedError(f"NAME={name} has a meaning in Python: such as NAME=stock_{name}")
        one = given or names.singular(name)
        if not one:
            raise RefusedError(
                f"{name} has no known singular: give one, such as NAME=people SINGULAR=person"
            )
        if not names.is_word(one):
            raise RefusedError(
                f"{one!r} is not a valid name: at most 40 letters a-z, digits and _, such as SINGULAR=person"
            )
        return one

    def _check_singular(self) -> None:
        if self.one == self.name:
            raise RefusedError(
                f"{self.name} is its own singular: give another, such as SINGULAR=one_{self.one}"
            )
        taken = (self.one, self.cls.lower(), f"new{self.cls.lower()}")
        if names.is_of_python(self.one) or names.is_of_python(self.cls) or names.TAKEN & {*taken}:
            raise RefusedError(
                f"{self.one} is a name in the code that would be written: such as NAME=stock_{self.name}, or SINGULAR=stock_{self.one}"
            )

    def _fields(self, texts: list[str]) -> list[Field]:
        if not texts:
            raise RefusedError(f"FIELDS is empty: such as {EXAMPLE}")
        aliases = {
            self.cls,
            f"{self.cls}Change",
            f"{self.cls}Id",
            f"{self.cls}Page",
            f"New{self.cls}",
        }
        fields: list[Field] = []
        for text in texts:
            field = self._field(text, aliases)
            if field.name in [other.name for other in fields]:
                raise RefusedError(
                    f"there are two fields {field.name}: each needs a name of its own"
                )
            aliases.add(field.alias)
            fields.append(field)
        if len(fields) > 100:
            raise RefusedError(f"there are {len(fields)} fields: at most 100")
        return fields

    def _field(self, text: str, aliases: set[str]) -> Field:
        found = FIELD.fullmatch(text)
        if not found:
            raise RefusedError(f"{text!r} is not a valid field: name:type, such as {EXAMPLE}")
        name, flags, default = found["name"], found["flags"], found["default"]
        if not names.is_word(name):
            raise RefusedError(
                f"{name!r} is not a valid name: at most 40 letters a-z, digits and _, such as {EXAMPLE}"
            )
        if keyword.iskeyword(name) or name in names.FIELDS or name.startswith("model_"):
            raise RefusedError(
                f"{name} has a meaning in Python, pydantic or SQLAlchemy: such as its_{name}"
            )
        if "," in found["type"]:
            raise RefusedError(f"{name}: spaces separate fields, not commas: such as {EXAMPLE}")
        if found["type"] not in KINDS:
            raise RefusedError(f"{name}: the types are {', '.join(KINDS)}, not {found['type']!r}")
        kind = KINDS[found["type"]](name, found["args"])
        if len(set(flags)) < len(flags):
            raise RefusedError(f"{text!r} has a flag twice: ? is optional, ! is unique")
        if "!" in flags:
            self._check_unique(name, kind, default)
        literal = None if default is None else kind.default(default)
        if isinstance(kind, Ref):
            self._check_reference(kind, "?" in flags, "!" in flags)
        return Field(
            text, name, kind, "?" in flags, "!" in flags, literal, self._alias(name, aliases)
        )

    def _check_unique(self, name: str, kind: Kind, default: str | None) -> None:
        if default is not None:
            raise RefusedError(f"{name}: a unique field has no default, which only one could have")
        if kind.unique is None:
            raise RefusedError(
                f"{name}: unique are str(4) to str(600), date, datetime, uuid, ref, and int, bigint and decimal with room for 1000 values"
            )

    def _check_reference(self, kind: Ref, optional: bool, unique: bool) -> None:
        if kind.table == self.name:
            if not optional:
                raise RefusedError(
                    f"{kind.name}: the first of {self.name} could refer to none: such as {kind.name}:ref({self.name})?"
                )
            if unique:
                raise RefusedError(
                    f"{kind.name}: a reference to its own resource can't be unique: such as {kind.name}:ref({self.name})?"
                )
            kind.is_own, kind.target = True, f'"{self.name}.id"'

    def _alias(self, name: str, aliases: set[str]) -> str:
        # Linters refuse some single letters, which look like digits.
        alias = names.camel(name) if len(name) > 1 else f"{name.upper()}Value"
        while alias in aliases or alias.lower() in names.TAKEN or keyword.iskeyword(alias):
            alias += "Value"
        return alias

    def _check_identifiers(self) -> None:
        """Refuse names that PostgreSQL would cut off."""
        written = [f"pk_{self.name}", f"{self.name}_id_seq"]
        for field in self.fields:
            written.append(f"{'ix' if field.is_indexed else 'uq'}_{self.name}_{field.name}")
            if isinstance(field.kind, Ref):
                written.append(f"fk_{self.name}_{field.name}_{field.kind.table}")
        written += [f"ck_{self.name}_{name}" for name, _ in self.conditions]
        for name in written:
            if len(name) > LONGEST:
                raise RefusedError(
                    f"{name} would have {len(name)} characters: PostgreSQL allows {LONGEST}, so choose shorter names"
                )
