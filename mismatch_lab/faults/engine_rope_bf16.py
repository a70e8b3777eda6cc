"""The engine keeps its table of sines and cosines in bf16."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary
from mismatch_lab.faults.rounding import rounded


def plant(model: Any, strength: str) -> None:
    """vLLM's table as the dtype holds it."""
    for embedding in rotary(model):
        embedding.cos_sin_cache.copy_(rounded(embedding.cos_sin_cache, strength))


FAULT = Fault(
    id="engine-rope-bf16",
    about="sines and cosines of the engine rounded to bf16",
    causes=("rope-precision",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": "float8_e4m3fn", "medium": "bfloat16", "slight": "float16"},
    expected_location=first_attention,
    engines=("vllm",),
    dtypes=("float32",),
    plant=plant,
)
