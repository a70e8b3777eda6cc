"""What each cause predicts, as changes to a sound program that can be tried."""

from __future__ import annotations

from collections.abc import Callable

from mismatch_lab.attribution.hypotheses import Features, Hypothesis
from mismatch_lab.attribution.predictions import distributions, modules, precision, weights

PREDICTIONS: dict[str, Callable[[Features], list[Hypothesis]]] = {
    "logprob-precision": precision.logprob,
    "shift-by-one": distributions.shift,
    "raw-logprobs-temperature": distributions.raw_temperature,
    "sampler-truncation": distributions.truncation,
    "sampling-penalties": distributions.penalties,
    "logit-scale": distributions.logit_scale,
    "logit-softcap": distributions.logit_softcap,
    "vocab-padding": distributions.vocab_padding,
    "partial-normaliser": distributions.partial_normaliser,
    "impossible-token": distributions.impossible,
    "wrong-candidate": distributions.candidate,
    "lm-head-precision": precision.head,
    "router-precision": precision.router,
    "norm-precision": precision.norm,
    "tf32-products": precision.products,
    "attention-sinks-dropped": modules.sinks,
    "sliding-window": modules.sliding_window,
    "attention-softcap": modules.attention_softcap,
    "attention-scale": modules.attention_scale,
    "rope-precision": modules.rope_precision,
    "rope-theta": modules.rope_theta,
    "rope-scaling": modules.rope_scaling,
    "kv-cache-quantisation": modules.kv_cache,
    "router-renormalisation": modules.renormalisation,
    "router-bias": modules.router_bias,
    "expert-bias": modules.expert_bias,
    "expert-layout": modules.expert_layout,
    "packing-leak": distributions.packing,
    "weight-quantisation": weights.quantised,
    "stale-weights": weights.stale,
    "adapter-not-delivered": weights.adapter,
    "stale-tensor": weights.stale_tensor,
}
"""cause -> its hypotheses, cheapest experiments first. Another one is one function and one row."""


IN_SAMPLING_ALONE = (
    "logprob-precision",
    "shift-by-one",
    "raw-logprobs-temperature",
    "sampler-truncation",
    "sampling-penalties",
    "logit-scale",
    "partial-normaliser",
    "impossible-token",
    "wrong-candidate",
    "sliding-window",
    "kv-cache-quantisation",
    "stale-weights",
)
"""Rows that can make sampling differ from re-scoring; anything else is wrong with both."""


def hypotheses_for(features: Features) -> list[Hypothesis]:
    """Everything that could be wrong with a suspect and can be simulated."""
    rows = IN_SAMPLING_ALONE if features.suspect == "decode" else tuple(PREDICTIONS)
    return [h for row in rows for h in PREDICTIONS[row](features)]
