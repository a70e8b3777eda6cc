"""The engine's decode kernel sees fewer keys than its prefill kernel (SGLang 0.5.21, GPT-OSS)."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_window, has_window
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import vllm_attention, wrap_forward


def plant(model: Any, strength: float) -> None:
    """vLLM: windows shorter by so many keys in batches of single tokens."""
    for attention in vllm_attention(model):
        if attention.impl.sliding_window > 0:
            _shorten_in_decode(attention.impl, int(strength))


def _shorten_in_decode(kernel: Any, fewer: int) -> None:
    window = kernel.sliding_window

    def wrap(forward: Any) -> Any:
        def decode_or_prefill(*args: Any, **kwargs: Any) -> Any:
            metadata = kwargs.get("attn_metadata", args[5] if len(args) > 5 else None)
            decode = metadata is not None and metadata.max_query_len == 1
            kernel.sliding_window = window - fewer if decode else window
            try:
                return forward(*args, **kwargs)
            finally:
                kernel.sliding_window = window

        return decode_or_prefill

    wrap_forward(kernel, wrap)


FAULT = Fault(
    id="decode-window",
    about="decode of the engine sees fewer keys than its prefill",
    causes=("decode-prefill-divergence",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 16, "medium": 4, "slight": 1},
    applies=has_window,
    expected_location=first_window,
    engines=("vllm",),
    plant=plant,
)
