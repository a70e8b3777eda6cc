"""Sampling fields that an engine inherits from a checkpoint's generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mismatch_lab.faults.base import RunOptions
from mismatch_lab.schema import OptionValue


def inherited(field: str, value: OptionValue) -> RunOptions:
    """The checkpoint carries the field, and the engine is told to follow the checkpoint."""
    return RunOptions(
        engine_args={"generation_config": "auto"}, checkpoint_edit=_setting(field, value)
    )


def _setting(field: str, value: OptionValue) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "generation_config.json"
        fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(fields | {field: value}, indent=1), encoding="utf-8")

    return edit
