"""What can be known of a run folder before anything heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError

MAY_DIFFER = ("steps", "eval_every", "checkpoint_every")
"""Settings that a resumed run may change: they do not change what a step computes."""


def check_same_run(record: Path, config: dict[str, Any]) -> None:
    """Raise InputError where a folder's record is of a run with other settings.

    Args:
        record: the run's `train.json`.
        config: the settings of the run that is to go on in it.
    """
    before: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["config"]
    differing = sorted(
        name for name in config if name not in MAY_DIFFER and before.get(name) != config[name]
    )
    if differing:
        raise InputError(
            f"{record.parent} holds a run with other settings: {', '.join(differing)}.",
            "Resume with the same ones, or name another --out.",
        )
