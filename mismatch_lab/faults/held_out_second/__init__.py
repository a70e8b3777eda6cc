"""Faults that nothing was developed on, a second set: `--subset held-out-second`.

Written after the causes had been changed with the first set's misses in sight, by somebody who had
read neither the attribution nor the published cards. As with the first set, they are not to be
looked at while the attribution is changed.
"""

from __future__ import annotations

HELD_OUT_SECOND: dict[str, str] = {
    "adapter-part-dropped": "mismatch_lab.faults.held_out_second.adapter_part_dropped:FAULT",
    "averaged-weights": "mismatch_lab.faults.held_out_second.averaged_weights:FAULT",
    "eos-bias": "mismatch_lab.faults.held_out_second.eos_bias:FAULT",
    "final-norm-twice": "mismatch_lab.faults.held_out_second.final_norm_twice:FAULT",
    "first-keys-unseen": "mismatch_lab.faults.held_out_second.first_keys_unseen:FAULT",
    "layer-cache-shared": "mismatch_lab.faults.held_out_second.layer_cache_shared:FAULT",
    "layernorm-as-rms": "mismatch_lab.faults.held_out_second.layernorm_as_rms:FAULT",
    "lm-head-quantised": "mismatch_lab.faults.held_out_second.lm_head_quantised:FAULT",
    "norm-after-residual": "mismatch_lab.faults.held_out_second.norm_after_residual:FAULT",
    "routed-scaling": "mismatch_lab.faults.held_out_second.routed_scaling:FAULT",
    "row-bias-repeated": "mismatch_lab.faults.held_out_second.row_bias_repeated:FAULT",
    "rows-exchanged": "mismatch_lab.faults.held_out_second.rows_exchanged:FAULT",
    "special-rows-reset": "mismatch_lab.faults.held_out_second.special_rows_reset:FAULT",
    "swiglu-plus-one": "mismatch_lab.faults.held_out_second.swiglu_plus_one:FAULT",
}
"""id -> where its `FAULT` is."""
