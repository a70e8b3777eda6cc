"""What a remedy is: for people, and where the trainer asks for what it changes.

Those that act in the middle of a step are called by the loop, by name, where they can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mismatch_lab.trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One published fix."""

    id: str
    about: str
    formula: str
    source: str
    causes: tuple[str, ...]
    """Cause ids that it removes or makes harmless."""
    engine: Literal["any", "vllm", "vllm in one process"] = "any"
    """Which engine it can be had with; the last reaches into the engine's model."""
    configure: Callable[[TrainConfig], TrainConfig] | None = None
    """What it changes of a run's settings."""
    change_model: Callable[[Any], None] | None = None
    """What it changes of the trainer's transformers model, in place, after faults are planted."""
