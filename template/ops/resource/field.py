"""One field of a resource, as the templates need it."""

from dataclasses import dataclass

from .kind import Kind
from .kinds import Ref


@dataclass(frozen=True)
class Field:
    """One field: `text` is how it was given, `name:type(args)?!=default`."""

    text: str
    name: str
    kind: Kind
    optional: bool
    unique: bool
    default: str | None
    """Python source, or None."""
    alias: str

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def value(self) -> str:
        """What a request may contain."""
        value = self.alias if self.is_aliased else self.kind.value
        return f"{value} | None" if self.optional else value

    @property
    def is_aliased(self) -> bool:
        return self.kind.value.startswith(("Annotated", "Literal"))

    @property
    def read(self) -> str:
        return f"{self.kind.read} | None" if self.optional else self.kind.read

    @property
    def may_be_left_out(self) -> bool:
        return self.optional or self.default is not None

    @property
    def left_out(self) -> str:
        """Return what a response contains if the field was left out, as JSON."""
        if self.default is None:
            return "None"
        return self.default.removeprefix("Decimal(").removesuffix(")")

    @property
    def column(self) -> str:
        options = [self.kind.column] if self.kind.column else []
        if self.kind.read == "Any":
            # `Any` does not say whether it may be NULL.
            options.append(f"nullable={self.optional}")
        if self.unique:
            options.append("unique=True")
        elif self.is_indexed:
            options.append("index=True")
        return ", ".join(options)

    @property
    def model(self) -> str:
        return f"{self.kind.model} | None" if self.optional else self.kind.model

    @property
    def is_indexed(self) -> bool:
        return isinstance(self.kind, Ref) and not self.unique

    @property
    def sample(self) -> str:
        if isinstance(self.kind, Ref) and self.kind.is_own:
            return "None"
        return (self.kind.unique if self.unique else None) or self.kind.first
