"""Float16 on both sides: three more bits of mantissa than bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from mismatch_lab.trainer.config import TrainConfig


def configure(config: TrainConfig) -> TrainConfig:
    """The run in float16."""
    return config.model_copy(update={"dtype": "float16"})


REMEDY = Remedy(
    id="fp16",
    about="both sides compute in float16, the trainer with a scaled loss and float32 weights",
    formula="2^-11 relative rounding in place of 2^-8",
    source="Qi et al. 2025, Defeating the Training-Inference Mismatch via FP16, "
    "https://arxiv.org/abs/2510.26788",
    softens=("numerics-floor",),
    configure=configure,
)
