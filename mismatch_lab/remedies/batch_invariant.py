"""Batch-invariant kernels in the engine: what a row gets does not depend on its neighbours."""

from __future__ import annotations

import os
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.base import Remedy

VARIABLE = "VLLM_BATCH_INVARIANT"
LEAST_CAPABILITY = 80
"""Of NVIDIA's GPUs, as vLLM 0.32 documents it."""


def turn_on() -> None:
    """In the engine's process, before its model is made.

    Raises:
        InputError: vLLM has no such kernels for this device.
    """
    os.environ[VARIABLE] = "1"
    from vllm.platforms import current_platform

    check_device(current_platform)


def check_device(platform: Any) -> None:
    """Elsewhere vLLM takes the variable and changes nothing: it sets the mode in GPU workers only.

    Args:
        platform: `vllm.platforms.current_platform`.
    """
    if platform.is_cuda() and not platform.has_device_capability(LEAST_CAPABILITY):
        raise InputError(
            "batch-invariant: vLLM needs a GPU of compute capability 8.0 or higher for it."
        )
    if not (platform.is_cuda_alike() or platform.is_xpu()):
        raise InputError(
            f"batch-invariant: vLLM has no batch-invariant kernels for {platform.device_type}.",
            "Use a GPU; on a CPU float32 on both sides makes the batch's part small.",
        )


REMEDY = Remedy(
    id="batch-invariant",
    about="the engine sums in an order that does not follow the batch; the trainer is not changed",
    formula="VLLM_BATCH_INVARIANT=1: fixed tiles, no split of K, one all-reduce order",
    source="He et al. 2025, Defeating Nondeterminism in LLM Inference (Thinking Machines); "
    "vLLM docs, Batch Invariance (vllm #27433)",
    removes=("batch-variance",),
    engine="vllm",
    start_engine=turn_on,
)
