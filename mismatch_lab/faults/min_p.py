"""The checkpoint's generation_config.json asks for min-p, and nobody unset it."""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.generation_config import inherited


def options(strength: float) -> RunOptions:
    """Tokens below `strength` times the most probable one's probability are never drawn."""
    return inherited("min_p", strength)


FAULT = Fault(
    id="min-p",
    about="min-p inherited from generation_config.json",
    causes=("sampler-truncation",),
    family="semantics",
    side="infer",
    kind="options",
    severities={"plain": 0.3, "medium": 0.1, "slight": 0.01},
    engines=("vllm",),
    options=options,
)
