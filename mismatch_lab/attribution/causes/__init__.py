"""The catalogue of causes: one module each, looked up in an explicit table.

Another cause is one module and one row, and the fault that proves it (`mismatch_lab.faults`).
Ids are stable: findings, scripts and people refer to them.
"""

from __future__ import annotations

from mismatch_lab.attribution.causes.base import FRAMEWORKS, CauseEntry
from mismatch_lab.registry import resolve

__all__ = ["CAUSES", "FRAMEWORKS", "CauseEntry", "all_causes", "load_cause"]

_HERE = "mismatch_lab.attribution.causes"

CAUSES: dict[str, str] = {
    # semantics
    "raw-logprobs-temperature": f"{_HERE}.raw_logprobs_temperature:CAUSE",
    "sampler-truncation": f"{_HERE}.sampler_truncation:CAUSE",
    "sampling-penalties": f"{_HERE}.sampling_penalties:CAUSE",
    "logit-scale": f"{_HERE}.logit_scale:CAUSE",
    "logit-softcap": f"{_HERE}.logit_softcap:CAUSE",
    "vocab-padding": f"{_HERE}.vocab_padding:CAUSE",
    "partial-normaliser": f"{_HERE}.partial_normaliser:CAUSE",
    "impossible-token": f"{_HERE}.impossible_token:CAUSE",
    # precision
    "lm-head-precision": f"{_HERE}.lm_head_precision:CAUSE",
    "logprob-precision": f"{_HERE}.logprob_precision:CAUSE",
    "router-precision": f"{_HERE}.router_precision:CAUSE",
    "norm-precision": f"{_HERE}.norm_precision:CAUSE",
    "tf32-products": f"{_HERE}.tf32_products:CAUSE",
    "numerics-floor": f"{_HERE}.numerics_floor:CAUSE",
    # tokens
    "shift-by-one": f"{_HERE}.shift_by_one:CAUSE",
    "packing-leak": f"{_HERE}.packing_leak:CAUSE",
    "packing-boundary": f"{_HERE}.packing_boundary:CAUSE",
    "terminal-token": f"{_HERE}.terminal_token:CAUSE",
    "retokenisation": f"{_HERE}.retokenisation:CAUSE",
    "prompt-template": f"{_HERE}.prompt_template:CAUSE",
    "sentinel-values": f"{_HERE}.sentinel_values:CAUSE",
    "missing-logprobs": f"{_HERE}.missing_logprobs:CAUSE",
    # attention
    "attention-sinks-dropped": f"{_HERE}.attention_sinks_dropped:CAUSE",
    "sliding-window": f"{_HERE}.sliding_window:CAUSE",
    "attention-softcap": f"{_HERE}.attention_softcap:CAUSE",
    "attention-scale": f"{_HERE}.attention_scale:CAUSE",
    "rope-precision": f"{_HERE}.rope_precision:CAUSE",
    "rope-theta": f"{_HERE}.rope_theta:CAUSE",
    "rope-scaling": f"{_HERE}.rope_scaling:CAUSE",
    "decode-prefill-divergence": f"{_HERE}.decode_prefill_divergence:CAUSE",
    # cache
    "kv-cache-quantisation": f"{_HERE}.kv_cache_quantisation:CAUSE",
    "stale-prefix-cache": f"{_HERE}.stale_prefix_cache:CAUSE",
    "stale-graph": f"{_HERE}.stale_graph:CAUSE",
    # moe
    "router-renormalisation": f"{_HERE}.router_renormalisation:CAUSE",
    "router-bias": f"{_HERE}.router_bias:CAUSE",
    "routing-two-pass": f"{_HERE}.routing_two_pass:CAUSE",
    "routing-flips": f"{_HERE}.routing_flips:CAUSE",
    "expert-layout": f"{_HERE}.expert_layout:CAUSE",
    "expert-bias": f"{_HERE}.expert_bias:CAUSE",
    # weights
    "stale-tensor": f"{_HERE}.stale_tensor:CAUSE",
    "stale-weights": f"{_HERE}.stale_weights:CAUSE",
    "adapter-not-delivered": f"{_HERE}.adapter_not_delivered:CAUSE",
    "untied-head": f"{_HERE}.untied_head:CAUSE",
    "weight-quantisation": f"{_HERE}.weight_quantisation:CAUSE",
    # trainer
    "dropout-active": f"{_HERE}.dropout_active:CAUSE",
    "batch-variance": f"{_HERE}.batch_variance:CAUSE",
    # any family: what is none of these
    "unlisted": f"{_HERE}.unlisted:CAUSE",
}
"""id -> "module:CAUSE", family by family."""


def load_cause(id: str) -> CauseEntry:
    """The entry of one cause.

    Raises:
        InputError: there is no such cause; says which there are.
    """
    entry: CauseEntry = resolve("cause", id, CAUSES)
    return entry


def all_causes() -> list[CauseEntry]:
    """Every entry, in the table's order."""
    return [load_cause(id) for id in CAUSES]
