"""Repairs on the real side: one part put back as it should be, everything else left as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mismatch_lab.attribution.knobs.base import PLANTED
from mismatch_lab.attribution.knobs.choose import choices, next_choice
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import RunSpec, SideSpec


@dataclass(frozen=True)
class Repair:
    """A side with one thing put right."""

    label: str
    spec: SideSpec


def repair_for(cause: str, run: RunSpec) -> Repair | None:
    """What of a patched trainer is put back to take a cause away; None where there is nothing."""
    put_back = [c for c in choices(run, "train") if c.turn.likely == PLANTED]
    choice = next_choice(put_back, {cause})
    return None if choice is None else Repair(choice.knob.does, choice.turn.trial.spec)


def resync(side: SideSpec, tensors: tuple[str, ...]) -> Repair:
    """Some tensors loaded from the checkpoint again, after whatever changed them."""
    shown = ", ".join(tensors[:2]) + (f" and {len(tensors) - 2} more" if tensors[2:] else "")
    return Repair(f"{shown} loaded again", side.model_copy(update={"resync": tensors}))


def error_of(capture: Capture, sound: np.ndarray[Any, Any]) -> float:
    """mean |log-prob - sound log-prob| over sampled tokens."""
    sampled = capture.rows.sampled
    return float(np.nanmean(np.abs(capture.logp.astype(np.float64) - sound)[sampled]))
