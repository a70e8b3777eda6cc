"""One line a step, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from mismatch_lab.trainer.watcher import Watcher

SHOWN = (
    ("reward", "reward", ".3f"),
    ("heldout/reward", "held out", ".3f"),
    ("grad_norm", "grad", ".2f"),
    ("entropy", "entropy", ".3f"),
    ("decode_train/abs_delta_mean", "|delta|", ".1e"),
    ("decode_train/kl_infer_train_k3", "k3", ".1e"),
    ("sync/restarted", "restarts", ".0f"),
    ("updates_skipped", "updates skipped", ".0f"),
    ("tokens_dropped", "tokens dropped", ".0f"),
    ("seconds/step", "s", ".1f"),
)
"""(metric, its short name, format)"""
WHERE_IT_HAPPENS = ("sync/restarted", "updates_skipped", "tokens_dropped")
"""Not shown where they are 0."""


class StepPrinter(Watcher):
    """For logs and pipes."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.console = Console(highlight=False)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Print the step."""
        parts = [
            f"{short} {values[name]:{form}}"
            for name, short, form in SHOWN
            if name in values and not (name in WHERE_IT_HAPPENS and values[name] == 0)
            if math.isfinite(values[name])
        ]
        self.console.print(f"step {step:>4}/{self.steps}  " + "  ".join(parts), soft_wrap=True)
        if why := values.get("sync/why_restarted"):
            self.console.print(f"engine started anew: {why}", soft_wrap=True, markup=False)
