"""The engine keeps keys and values in fp8: decode reads them back, prefill never did."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import is_vllm, layers, vllm_attention, wrap_forward
from mismatch_lab.faults.rounding import rounded


def plant(model: Any, strength: str) -> None:
    """What a forward has written is rounded before the next one reads it."""
    if is_vllm(model):
        for attention in vllm_attention(model):
            _round_vllm(attention.impl, strength)
        return
    for index, layer in enumerate(layers(model)):
        _round_transformers(layer.self_attn, index, strength)


def _round_vllm(kernel: Any, form: str) -> None:
    def wrap(forward: Any) -> Any:
        def rounding(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            cache = kwargs.get("kv_cache", args[4] if len(args) > 4 else None)
            metadata = kwargs.get("attn_metadata", args[5] if len(args) > 5 else None)
            if metadata is not None and cache is not None:
                blocks = metadata.block_table.unique().long()
                cache[blocks] = rounded(cache[blocks], form)  # a second time changes nothing
            return output

        return rounding

    wrap_forward(kernel, wrap)


def _round_transformers(attention: Any, index: int, form: str) -> None:
    def rounding(_module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None:
            kept = cache.layers[index]
            kept.keys, kept.values = rounded(kept.keys, form), rounded(kept.values, form)

    attention.register_forward_hook(rounding, with_kwargs=True)


FAULT = Fault(
    id="kv-cache-fp8",
    about="keys and values of the engine's cache rounded to fp8",
    causes=("kv-cache-quantisation",),
    family="cache",
    side="infer",
    kind="plugin",
    severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "bfloat16"},
    expected_location=first_attention,
    dtypes=("float32",),
    plant=plant,
)
