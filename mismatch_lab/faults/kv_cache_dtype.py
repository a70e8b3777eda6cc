"""vLLM's own `kv_cache_dtype=fp8`: on a CPU its prefill reads the rounded cache too."""

from __future__ import annotations

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault, RunOptions


def options(strength: str) -> RunOptions:
    """The cache's dtype, as vLLM calls it; it has no finer one than e4m3 (`fp8` is that too)."""
    return RunOptions(engine_args={"kv_cache_dtype": strength})


FAULT = Fault(
    id="kv-cache-dtype",
    about="vLLM started with an fp8 cache",
    causes=("kv-cache-quantisation",),
    family="cache",
    side="infer",
    kind="options",
    severities={"plain": "fp8_e5m2", "medium": "fp8_e4m3", "slight": "fp8"},
    expected_location=first_attention,
    engines=("vllm",),
    options=options,
)
