"""The tasks of the reference trainer; another is one module and one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.registry import resolve
from mismatch_lab.trainer.tasks.base import Task

__all__ = ["TASKS", "Task", "load_task"]

_HERE = "mismatch_lab.trainer.tasks"

TASKS: dict[str, str] = {
    "gsm8k": f"{_HERE}.gsm8k:Gsm8k",
    "retool": f"{_HERE}.retool:Retool",
    "verifyif": f"{_HERE}.verifyif:VerifyIf",
}


def load_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task with its options: the fields of its class.

    Raises:
        InputError: there is no such task or option, or the option's value is wrong.
    """
    kind = resolve("task", name, TASKS)
    known = [field.name for field in fields(kind) if field.init]
    if unknown := sorted(set(options or {}) - set(known)):
        raise InputError(
            f"The task {name} has no option {', '.join(map(repr, unknown))}.",
            f"Available: {', '.join(known)}.",
        )
    task: Task = kind(**(options or {}))
    return task
