"""A monitor set up by environment variables, for frameworks that load a hook by its name alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

from mismatch_lab.errors import InputError
from mismatch_lab.live.monitor import MismatchMonitor

FOLDER = "MISMATCH_LAB_RECORD"
VARIABLES: Mapping[str, str] = {
    FOLDER: "folder for what is written; without it nothing is done",
    "MISMATCH_LAB_MODEL": "the checkpoint, or where one of a step is found (out/step-{step})",
    "MISMATCH_LAB_DTYPE": "that both sides compute in; bfloat16 where nothing is said",
    "MISMATCH_LAB_SINKS": "of jsonl, tensorboard, wandb, prometheus, with commas between; jsonl",
}
"""What each says."""


def folder_asked() -> str | None:
    """Where to write, or None where nobody has asked for it."""
    return os.environ.get(FOLDER) or None


@cache
def monitor_from_environment(framework: str, rank: int, model: str, /) -> MismatchMonitor:
    """The one monitor of this process.

    Args:
        framework: name of the trainer.
        rank: of this process.
        model: checkpoint, where the variable does not say it.

    Raises:
        InputError: the variable that says where is not set, or one of the others is wrong.
    """
    folder = folder_asked()
    if folder is None:
        raise InputError(f"{FOLDER} is not set.", "It names the folder for what is written.")
    return MismatchMonitor(
        folder,
        model=os.environ.get("MISMATCH_LAB_MODEL", model),
        dtype=os.environ.get("MISMATCH_LAB_DTYPE", "bfloat16"),
        rank=rank,
        sinks=tuple(os.environ.get("MISMATCH_LAB_SINKS", "jsonl").split(",")),
        trainer=framework,
    )
