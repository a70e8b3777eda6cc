"""Faults that nothing was developed on: the held-out part of the scorecard.

They were written by somebody who had not read how causes are recognised, from what goes wrong in
the field. Many have no name among the causes: of these the tool must see that something is wrong,
on which side and where, and must not be sure of another name. To be of use they are not to be
looked at while the attribution is changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from mismatch_lab.faults.base import Fault
from mismatch_lab.registry import resolve

HELD_OUT: dict[str, str] = {
    "activation": "mismatch_lab.faults.held_out.activation:FAULT",
    "attention-bf16": "mismatch_lab.faults.held_out.attention_bf16:FAULT",
    "attention-scale": "mismatch_lab.faults.held_out.attention_scale:FAULT",
    "chunk-boundary": "mismatch_lab.faults.held_out.chunk_boundary:FAULT",
    "embedding-scale": "mismatch_lab.faults.held_out.embedding_scale:FAULT",
    "expert-capacity": "mismatch_lab.faults.held_out.expert_capacity:FAULT",
    "experts-exchanged": "mismatch_lab.faults.held_out.experts_exchanged:FAULT",
    "fp8-dispatch": "mismatch_lab.faults.held_out.fp8_dispatch:FAULT",
    "gate-up-swapped": "mismatch_lab.faults.held_out.gate_up_swapped:FAULT",
    "gqa-mapping": "mismatch_lab.faults.held_out.gqa_mapping:FAULT",
    "kv-cache-int8": "mismatch_lab.faults.held_out.kv_cache_int8:FAULT",
    "layer-skipped": "mismatch_lab.faults.held_out.layer_skipped:FAULT",
    "logits-clamp": "mismatch_lab.faults.held_out.logits_clamp:FAULT",
    "lora-merged-twice": "mismatch_lab.faults.held_out.lora_merged_twice:FAULT",
    "mask-future": "mismatch_lab.faults.held_out.mask_future:FAULT",
    "mlp-shard": "mismatch_lab.faults.held_out.mlp_shard:FAULT",
    "norm-eps": "mismatch_lab.faults.held_out.norm_eps:FAULT",
    "norm-plus-one": "mismatch_lab.faults.held_out.norm_plus_one:FAULT",
    "positions-stall": "mismatch_lab.faults.held_out.positions_stall:FAULT",
    "qk-norm-skipped": "mismatch_lab.faults.held_out.qk_norm_skipped:FAULT",
    "qkv-bias-dropped": "mismatch_lab.faults.held_out.qkv_bias_dropped:FAULT",
    "quantised-activations": "mismatch_lab.faults.held_out.quantised_activations:FAULT",
    "quantised-projection": "mismatch_lab.faults.held_out.quantised_projection:FAULT",
    "residual-bf16": "mismatch_lab.faults.held_out.residual_bf16:FAULT",
    "rope-interleaved": "mismatch_lab.faults.held_out.rope_interleaved:FAULT",
    "router-renormalised": "mismatch_lab.faults.held_out.router_renormalised:FAULT",
    "router-top-k": "mismatch_lab.faults.held_out.router_top_k:FAULT",
    "stage-stale": "mismatch_lab.faults.held_out.stage_stale:FAULT",
    "suppressed-tokens": "mismatch_lab.faults.held_out.suppressed_tokens:FAULT",
    "temperature-twice": "mismatch_lab.faults.held_out.temperature_twice:FAULT",
    "window-on-other-layers": "mismatch_lab.faults.held_out.window_on_other_layers:FAULT",
    "window-shrunk": "mismatch_lab.faults.held_out.window_shrunk:FAULT",
}
"""id -> where its `FAULT` is."""


def load_held_out(name: str, among: Mapping[str, str] = HELD_OUT) -> Fault:
    """The fault of that id, of this set or of another like it.

    Raises:
        InputError: no such fault; the message lists what there is.
    """
    fault: Fault = resolve("held-out fault", name, among)
    return fault
