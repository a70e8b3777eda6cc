"""What can be known of a run folder before anything heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError

MAY_DIFFER = ("steps", "eval_every", "checkpoint_every", "tensorboard")
"""Settings that a resumed run may change: they do not change what a step computes."""
PLACES = ("engines", "devices", "urls")
"""Those of `rollout`: where engines are."""


def check_same_run(record: Path, config: dict[str, Any]) -> None:
    """Raise InputError where a folder's record is of a run with other settings.

    Args:
        record: the run's `train.json`.
        config: the settings of the run that is to go on in it.
    """
    before: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["config"]
    held, asked = _that_count(before), _that_count(config)
    differing = sorted(name for name in asked if held.get(name) != asked[name])
    if differing:
        raise InputError(
            f"{record.parent} holds a run with other settings: {', '.join(differing)}.",
            "Resume with the same ones, or name another --out.",
        )


def _that_count(config: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in MAY_DIFFER}
    rollout = {k: v for k, v in config.get("rollout", {}).items() if k not in PLACES}
    return kept | {"rollout": rollout}
