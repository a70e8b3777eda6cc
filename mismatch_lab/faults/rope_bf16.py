"""`model.to(bfloat16)` rounded the trainer's rotary frequencies."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary
from mismatch_lab.faults.rounding import rounded


def plant(model: Any, strength: str) -> None:
    """Frequencies as the dtype holds them."""
    for embedding in rotary(model):
        embedding.inv_freq.copy_(rounded(embedding.inv_freq, strength))


FAULT = Fault(
    id="rope-bf16",
    about="rotary frequencies of the trainer rounded to bf16",
    causes=("rope-precision",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
    expected_location=first_attention,
    plant=plant,
)
