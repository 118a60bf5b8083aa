"""The arguments of a job, with the types of its function's parameters, as JSON in the queue."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

# What `enqueue` takes besides the arguments of the function.
OPTIONS = {"delay", "key"}
# What pydantic writes instead of a SecretStr.
MASKED = b'"**********"'
STRICT = ConfigDict(
    strict=True,
    extra="forbid",
    # What a queue may contain is not for logs.
    hide_input_in_errors=True,
    ser_json_inf_nan="constants",
    ser_json_bytes="base64",
    val_json_bytes="base64",
)


class Arguments:
    """What the function of the job `job` takes after its `Run`; TypeError if it can't be typed."""

    def __init__(self, job: str, function: Callable[..., Any]) -> None:
        self.job = job
        self.model: type[BaseModel] = create_model(job, __config__=STRICT, **_fields(job, function))

    @property
    def are_required(self) -> bool:
        """Whether one of them has no default."""
        return any(field.is_required() for field in self.model.model_fields.values())

    def dump(self, values: dict[str, Any]) -> bytes:
        """Return the values as JSON; raise TypeError if they don't fit the function."""
        try:
            # Without defaults: the release that runs the job decides on them.
            payload = self.model(**values).model_dump_json(exclude_unset=True).encode()
            self.load(payload)
        except ValidationError as error:
            faults = [f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
            raise TypeError(f"{self.job} can't be enqueued: {'; '.join(faults)}") from None
        except ValueError as error:
            raise TypeError(f"{self.job} can't be enqueued: {error}") from None
        if MASKED in payload:
            raise TypeError(f"{self.job} can't be enqueued with a secret: the queue shows it")
        return payload

    def load(self, payload: bytes) -> dict[str, Any]:
        """Return the values that the JSON contains; raise ValueError if they don't fit."""
        loaded = self.model.model_validate_json(payload, by_alias=True, by_name=True)
        return {name: getattr(loaded, name) for name in loaded.model_fields_set}


def _fields(job: str, function: Callable[..., Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or not inspect.iscoroutinefunction(function):
        raise TypeError(f"The job {job} should be: async def {job}(run: Run, ...) -> None")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"The job {job} can't have the parameter {parameter}")
        name = parameter.name
        is_taken = name in OPTIONS or name.startswith("_") or hasattr(BaseModel, name)
        if is_taken or name not in hints:
            raise TypeError(f"The job {job}: rename or annotate the parameter {name}")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints[name], default)
    return fields


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
