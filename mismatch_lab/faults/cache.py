"""What was kept of earlier tokens or updates: keys and values, prompts, captured graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.faults.checkpoints import old_parameters, with_tensors
from mismatch_lab.faults.modules import is_vllm, layers, vllm_attention, wrap_forward
from mismatch_lab.faults.rounding import rounded


def round_cache(model: Any, strength: str) -> None:
    """The engine keeps keys and values in fp8: decode reads them back, prefill never did.

    What a forward has written is rounded before the next one reads it.
    """
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


def fp8_cache(strength: str) -> RunOptions:
    """vLLM's own `kv_cache_dtype=fp8`: on a CPU its prefill reads the rounded cache too.

    The cache's dtype, as vLLM calls it; it has no finer one than e4m3 (`fp8` is that too).
    """
    return RunOptions(engine_args={"kv_cache_dtype": strength})


def decode_on_old_weights(model: Any, before: Path) -> None:
    """Captured decode graphs point at the weights from before the update.

    transformers' generate: steps of one token run on the old weights.
    """
    old = old_parameters(model, before)

    def wrap(forward: Any) -> Any:
        def forward_or_graph(*args: Any, **kwargs: Any) -> Any:
            cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
            if cache is None or ids is None or ids.shape[1] != 1:
                return forward(*args, **kwargs)
            with with_tensors(model, old):
                return forward(*args, **kwargs)

        return forward_or_graph

    wrap_forward(model, wrap)


ALONG = ("input_ids", "position_ids")
"""Inputs with one value for each token that runs; the mask also covers what is cached."""


def read_old_prompts(model: Any, before: Path) -> None:
    """Prompts were cached before the update, and the cache was not flushed.

    transformers' generate: all of the prompt but its last token runs on the old weights.
    """
    old = old_parameters(model, before)

    def wrap(forward: Any) -> Any:
        def forward_from_cache(*args: Any, **kwargs: Any) -> Any:
            cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
            if cache is None or ids is None or ids.shape[1] == 1:
                return forward(*args, **kwargs)
            with with_tensors(model, old):
                forward(*args, **(kwargs | _cut(kwargs, slice(None, -1), ("attention_mask",))))
            return forward(*args, **(kwargs | _cut(kwargs, slice(-1, None), ())))

        return forward_from_cache

    wrap_forward(model, wrap)


def _cut(kwargs: dict[str, Any], part: slice, more: tuple[str, ...]) -> dict[str, Any]:
    names = [name for name in (*ALONG, *more) if kwargs.get(name) is not None]
    return {name: kwargs[name][:, part] for name in names}


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="kv-cache-dtype",
        about="vLLM started with an fp8 cache",
        causes=("kv-cache-quantisation",),
        family="cache",
        side="infer",
        kind="options",
        severities={"plain": "fp8_e5m2", "medium": "fp8_e4m3", "slight": "fp8"},
        expected_location=first_attention,
        engines=("vllm",),
        options=fp8_cache,
    ),
    Fault(
        id="kv-cache-fp8",
        about="keys and values of the engine's cache rounded to fp8",
        causes=("kv-cache-quantisation",),
        family="cache",
        side="infer",
        kind="plugin",
        severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "bfloat16"},
        expected_location=first_attention,
        dtypes=("float32",),
        plant=round_cache,
    ),
    Fault(
        id="stale-graph",
        about="decode of the engine runs on the weights from before the update",
        causes=("stale-graph",),
        family="cache",
        side="sync",
        kind="update",
        severities={"plain": 0.1, "medium": 0.02, "slight": 0.005},
        engines=("hf",),
        update=decode_on_old_weights,
    ),
    Fault(
        id="stale-prefix-cache",
        about="cached prompts of the engine date from before the update",
        causes=("stale-prefix-cache",),
        family="cache",
        side="sync",
        kind="update",
        severities={"plain": 0.3, "medium": 0.1, "slight": 0.02},
        engines=("hf",),
        update=read_old_prompts,
    ),
)
