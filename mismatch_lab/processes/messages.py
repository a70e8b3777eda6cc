"""Messages between this program and its processes: dataclasses and pydantic models, as JSON.

A message is `[name of its type, its fields]`, and either side knows the types that the other may
send. Pydantic reads and writes them, not msgspec: a worker may run in the interpreter of a user's
trainer, which must have pydantic for what a worker is asked to do, and need not have msgspec.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import CoreSchema, core_schema

from mismatch_lab.errors import (
    DISK_FULL,
    EngineError,
    MismatchLabError,
    NoRoomError,
    NotApplicableError,
)

ERRORS = {kind.__name__: kind for kind in MismatchLabError.__subclasses__()}
ANSWERS = (NotApplicableError, NoRoomError)
"""Errors after which the process goes on: it was asked for what cannot be had."""


@dataclass(frozen=True)
class Failed:
    """An error of the process, as what it was."""

    kind: str
    problem: str
    hint: str = ""

    @classmethod
    def of(cls, error: MismatchLabError) -> Failed:
        return cls(type(error).__name__, error.problem, error.hint)

    def error(self, log: Path | None = None, said_by: str = "") -> MismatchLabError:
        """The error, with the log that has more and whoever said it."""
        kind = ERRORS.get(self.kind, EngineError)
        full = self.problem == DISK_FULL[0]  # the log is on that disk, too
        if log is None or full or kind in ANSWERS:
            return kind(said_by + self.problem, self.hint)
        return kind(self.problem, f"{self.hint}\nLog: {log}" if self.hint else f"Log: {log}")


class Messages:
    """The types that may be sent one way or the other."""

    def __init__(self, *types: type) -> None:
        self._types = {kind.__name__: kind for kind in (Failed, *types)}

    def plain(self, message: Any) -> list[Any]:
        """A message as JSON has it."""
        name = type(message).__name__
        return [name, _adapter(self._types[name]).dump_python(message, mode="json")]

    def read(self, plain: Any) -> Any:
        """What `plain` made; raises ValueError for what is no message of these types."""
        match plain:
            case [str(name), value] if name in self._types:
                return _adapter(self._types[name]).validate_python(value)
        raise ValueError(f"No message of {', '.join(self._types)}: {str(plain)[:100]}")


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class ArrayAsJson:
    """For `Annotated`: an array as a field of a message."""

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _array, serialization=core_schema.plain_serializer_function_ser_schema(_fields)
        )


def _fields(array: NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _array(value: dict[str, Any]) -> NDArray[Any]:
    raw = base64.b64decode(value["data"])
    return np.frombuffer(raw, value["dtype"]).reshape(value["shape"])
