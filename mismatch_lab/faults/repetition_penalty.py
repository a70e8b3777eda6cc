"""The checkpoint's generation_config.json asks for a repetition penalty (Qwen2.5 does)."""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.generation_config import inherited


def options(strength: float) -> RunOptions:
    """A penalty of 1 + strength."""
    return inherited("repetition_penalty", 1 + strength)


FAULT = Fault(
    id="repetition-penalty",
    about="repetition penalty inherited from generation_config.json",
    causes=("sampling-penalties",),
    family="semantics",
    side="infer",
    kind="options",
    severities={"plain": 0.1, "medium": 0.02, "slight": 0.003},
    engines=("vllm",),
    options=options,
)
