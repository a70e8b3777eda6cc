"""The checkpoint's generation_config.json asks for top-k, and nobody unset it."""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.generation_config import inherited


def options(strength: float) -> RunOptions:
    """Sampling from the best 1 / strength tokens."""
    return inherited("top_k", round(1 / strength))


FAULT = Fault(
    id="top-k",
    about="top-k inherited from generation_config.json",
    causes=("sampler-truncation",),
    family="semantics",
    side="infer",
    kind="options",
    severities={"plain": 1 / 2, "medium": 1 / 5, "slight": 1 / 20},
    engines=("vllm",),
    options=options,
)
