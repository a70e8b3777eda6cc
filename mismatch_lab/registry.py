"""Explicit tables of lazily imported names: `"fsdp": "mismatch_lab.engines.fsdp:FsdpEngine"`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mismatch_lab.errors import InputError, choices


def resolve(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Import what `name` stands for in `table`.

    Raises:
        InputError: `name` is not in the table; the message says what comes near and what there is.
    """
    if name not in table:
        raise InputError(f"Unknown {kind} {name!r}.", choices(name, table))
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
