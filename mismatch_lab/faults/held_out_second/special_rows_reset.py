"""Rows of the special tokens were set anew when the engine's embedding was resized."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED

ROWS = slice(0, 6)
"""The special tokens of the scorecard's tokenizer: padding, end and four roles."""


def plant(model: Any, strength: float) -> None:
    """They go `strength` of the way to the mean row, where a resize sets new ones."""
    weight = model.get_input_embeddings().weight.data
    weight[ROWS] = weight[ROWS].lerp(weight.mean(0), strength)


FAULT = Fault(
    id="special-rows-reset",
    about="embeddings of the special tokens set anew in the engine",
    causes=("stale-tensor", UNLISTED),
    why_several="some tensors hold other numbers, though no update left them out",
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.05},
    expected_location=lambda _config: "model.embed_tokens",
    engines=("hf",),
    plant=plant,
)
