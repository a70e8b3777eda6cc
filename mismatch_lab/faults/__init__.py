"""Plantable faults, for the scorecard: each one module with one planting function.

A fault is a defect as it happens in the field: a kernel without sinks, a glue that loses a token, a
sync that forgets a tensor. Nothing here knows how causes are recognised. To add one: a module with
a `FAULT`, and a row below.
"""

from __future__ import annotations

from mismatch_lab.faults.base import Fault
from mismatch_lab.registry import resolve

FAULTS: dict[str, str] = {
    # semantics
    "engine-final-softcap": "mismatch_lab.faults.engine_final_softcap:FAULT",
    "engine-logit-scale": "mismatch_lab.faults.engine_logit_scale:FAULT",
    "engine-lost-shard": "mismatch_lab.faults.lost_shard:ENGINE_FAULT",
    "engine-masked-vocabulary": "mismatch_lab.faults.masked_vocabulary:ENGINE_FAULT",
    "final-softcap": "mismatch_lab.faults.final_softcap:FAULT",
    "logit-scale": "mismatch_lab.faults.logit_scale:FAULT",
    "lost-shard": "mismatch_lab.faults.lost_shard:FAULT",
    "masked-vocabulary": "mismatch_lab.faults.masked_vocabulary:FAULT",
    "min-p": "mismatch_lab.faults.min_p:FAULT",
    "phantom-vocab": "mismatch_lab.faults.phantom_vocab:FAULT",
    "raw-temperature": "mismatch_lab.faults.raw_temperature:FAULT",
    "repetition-penalty": "mismatch_lab.faults.repetition_penalty:FAULT",
    "temperature-on-logprobs": "mismatch_lab.faults.temperature_on_logprobs:FAULT",
    "top-k": "mismatch_lab.faults.top_k:FAULT",
    "top-p": "mismatch_lab.faults.top_p:FAULT",
    # precision
    "lm-head-bf16": "mismatch_lab.faults.lm_head_bf16:FAULT",
    "log-softmax-bf16": "mismatch_lab.faults.log_softmax_bf16:FAULT",
    "norm-bf16": "mismatch_lab.faults.norm_bf16:FAULT",
    "tf32-kernels": "mismatch_lab.faults.tf32_kernels:FAULT",
    "router-bf16": "mismatch_lab.faults.router_bf16:FAULT",
    "router-noise": "mismatch_lab.faults.router_noise:FAULT",
    "transport-bf16": "mismatch_lab.faults.transport_bf16:FAULT",
    # tokens
    "engine-nan-tokens": "mismatch_lab.faults.nan_tokens:ENGINE_FAULT",
    "masked-eos": "mismatch_lab.faults.masked_eos:FAULT",
    "nan-tokens": "mismatch_lab.faults.nan_tokens:FAULT",
    "packing-boundary": "mismatch_lab.faults.packing_boundary:FAULT",
    "packing-leak": "mismatch_lab.faults.packing_leak:FAULT",
    "packing-leak-restarted": "mismatch_lab.faults.packing_leak_restarted:FAULT",
    "prompt-template": "mismatch_lab.faults.prompt_template:FAULT",
    "retokenisation": "mismatch_lab.faults.retokenisation:FAULT",
    "sentinel-clamp": "mismatch_lab.faults.sentinel_clamp:FAULT",
    "sentinel-zero": "mismatch_lab.faults.sentinel_zero:FAULT",
    "shift-infer": "mismatch_lab.faults.shift_infer:FAULT",
    "shift-train": "mismatch_lab.faults.shift_train:FAULT",
    "synthetic-eos": "mismatch_lab.faults.synthetic_eos:FAULT",
    # attention
    "attention-softcap": "mismatch_lab.faults.attention_softcap:FAULT",
    "decode-window": "mismatch_lab.faults.decode_window:FAULT",
    "engine-attention-softcap": "mismatch_lab.faults.engine_attention_softcap:FAULT",
    "engine-rope-bf16": "mismatch_lab.faults.engine_rope_bf16:FAULT",
    "engine-rope-theta": "mismatch_lab.faults.engine_rope_theta:FAULT",
    "engine-sinks-dropped": "mismatch_lab.faults.engine_sinks_dropped:FAULT",
    "engine-window": "mismatch_lab.faults.engine_window:FAULT",
    "engine-yarn-mscale": "mismatch_lab.faults.engine_yarn_mscale:FAULT",
    "rope-bf16": "mismatch_lab.faults.rope_bf16:FAULT",
    "rope-scaling-lost": "mismatch_lab.faults.rope_scaling_lost:FAULT",
    "rope-theta": "mismatch_lab.faults.rope_theta:FAULT",
    "scores-scaled": "mismatch_lab.faults.scores_scaled:FAULT",
    "sinks-dropped": "mismatch_lab.faults.sinks_dropped:FAULT",
    "sinks-dropped-layer": "mismatch_lab.faults.sinks_dropped_layer:FAULT",
    "window-ignored": "mismatch_lab.faults.window_ignored:FAULT",
    "window-ignored-layer": "mismatch_lab.faults.window_ignored_layer:FAULT",
    "window-off-by-one": "mismatch_lab.faults.window_off_by_one:FAULT",
    "yarn-mscale": "mismatch_lab.faults.yarn_mscale:FAULT",
    # cache
    "kv-cache-dtype": "mismatch_lab.faults.kv_cache_dtype:FAULT",
    "kv-cache-fp8": "mismatch_lab.faults.kv_cache_fp8:FAULT",
    "stale-graph": "mismatch_lab.faults.stale_graph:FAULT",
    "stale-prefix-cache": "mismatch_lab.faults.stale_prefix_cache:FAULT",
    # moe
    "engine-expert-bias": "mismatch_lab.faults.engine_expert_bias:FAULT",
    "engine-expert-layout": "mismatch_lab.faults.engine_expert_layout:FAULT",
    "expert-bias": "mismatch_lab.faults.expert_bias:FAULT",
    "expert-layout": "mismatch_lab.faults.expert_layout:FAULT",
    "near-tie-flips": "mismatch_lab.faults.near_tie_flips:FAULT",
    "renormalisation-off": "mismatch_lab.faults.renormalisation_off:FAULT",
    "router-bias-stale": "mismatch_lab.faults.router_bias_stale:FAULT",
    "selection-bias": "mismatch_lab.faults.selection_bias:FAULT",
    "two-pass-shape": "mismatch_lab.faults.two_pass_shape:FAULT",
    "two-pass-training": "mismatch_lab.faults.two_pass_training:FAULT",
    # weights
    "adapter-missing": "mismatch_lab.faults.adapter_missing:FAULT",
    "noised-expert": "mismatch_lab.faults.noised_expert:FAULT",
    "noised-tensor": "mismatch_lab.faults.noised_tensor:FAULT",
    "quantised-weights": "mismatch_lab.faults.quantised_weights:FAULT",
    "stale-tensor": "mismatch_lab.faults.stale_tensor:FAULT",
    "stale-weights": "mismatch_lab.faults.stale_weights:FAULT",
    "untied-head": "mismatch_lab.faults.untied_head:FAULT",
    # trainer
    "batch-variance": "mismatch_lab.faults.batch_variance:FAULT",
    "dropout-active": "mismatch_lab.faults.dropout_active:FAULT",
}
"""id -> where its `FAULT` is."""


def load_fault(name: str) -> Fault:
    """The fault of that id.

    Raises:
        InputError: no such fault; the message lists what there is.
    """
    fault: Fault = resolve("fault", name, FAULTS)
    return fault
