"""Reads a pickle without running any of it: names stand for nothing but themselves.

A pickle is a program that calls what it names. Here a name that is not on the list is an error, and
one that is on it gives back its arguments or a placeholder: no class is looked up, nothing is
imported, nothing is called that is not in this file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mismatch_lab.errors import InputError

Call = Callable[..., Any]


class Placeholder:
    """What stands for an object that is not needed; whatever it is set to, it keeps nothing."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        return


class _Name:
    """A name of the list: may be called, and cannot be changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise pickle.UnpicklingError("it sets the state of a class")


def ignored(*_arguments: Any) -> Placeholder:
    """In place of any class whose objects are not needed."""
    return Placeholder()


class _Bounded(io.RawIOBase):
    """A file that is never asked for more than it has: lengths in a pickle are its author's."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or an error."""
        if size < 0 or size > self._left:
            raise EOFError(f"it says that {size} bytes follow, and {self._left} do")
        self._left -= size
        return self._stream.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        """A line of the old protocol, which holds a name or a number."""
        line = self._stream.readline(LONGEST_NAME)
        self._left -= len(line)
        return line


LONGEST_NAME = 4096
"""Bytes of a line of the old protocol."""


class _Unpickler(pickle._Unpickler):
    """Python's own, which allocates nothing in advance; the one in C makes room for what a pickle
    claims to hold.
    """

    def __init__(self, stream: BinaryIO, size: int, names: Mapping[str, Call]) -> None:
        super().__init__(_Bounded(stream, size))
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        """A name of the list."""
        full = f"{module}.{name}"
        if full not in self._names:
            raise pickle.UnpicklingError(f"it names {full}, which is not on the list")
        return _Name(self._names[full])


def load_restricted(path: Path, names: Mapping[str, Call]) -> Any:
    """What a pickle holds, of plain data and the names given.

    Args:
        path: of the file.
        names: full name -> what is called in its place.

    Raises:
        InputError: it names anything else, is cut off, or is no pickle. No code of it has run.
    """
    try:
        with path.open("rb") as stream:
            return _Unpickler(stream, path.stat().st_size, names).load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not read, and nothing of it was run: {error}.",
            "If it is of a SkyRL of yours that pickles more, dump plain tensors.",
        ) from error
    except Exception as error:  # a broken pickle fails in as many ways as there are opcodes
        raise InputError(f"{path} is no whole pickle: {type(error).__name__}: {error}.") from error
