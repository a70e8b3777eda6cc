"""What each cause predicts, as changes to a sound program that can be tried."""

from __future__ import annotations

from collections.abc import Callable

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.predictions import (
    attention,
    moe,
    precision,
    semantics,
    tokens,
    weights,
)

PREDICTIONS: dict[str, Callable[[Clues], list[Hypothesis]]] = {
    "logprob-precision": precision.logprob,
    "shift-by-one": tokens.shift,
    "terminal-token": tokens.terminal,
    "raw-logprobs-temperature": semantics.raw_temperature,
    "sampler-truncation": semantics.truncation,
    "sampling-penalties": semantics.penalties,
    "logit-scale": semantics.logit_scale,
    "logit-softcap": semantics.logit_softcap,
    "vocab-padding": semantics.vocab_padding,
    "partial-normaliser": semantics.partial_normaliser,
    "impossible-token": semantics.impossible,
    "lm-head-precision": precision.head,
    "router-precision": precision.router,
    "norm-precision": precision.norm,
    "tf32-products": precision.products,
    "attention-sinks-dropped": attention.sinks,
    "sliding-window": attention.sliding_window,
    "attention-softcap": attention.attention_softcap,
    "attention-scale": attention.attention_scale,
    "rope-precision": attention.rope_precision,
    "rope-theta": attention.rope_theta,
    "rope-scaling": attention.rope_scaling,
    "kv-cache-quantisation": attention.kv_cache,
    "router-renormalisation": moe.renormalisation,
    "router-bias": moe.router_bias,
    "expert-bias": moe.expert_bias,
    "expert-layout": moe.expert_layout,
    "packing-leak": tokens.packing,
    "weight-quantisation": weights.quantised,
    "stale-weights": weights.stale,
    "adapter-not-delivered": weights.adapter,
    "stale-tensor": weights.stale_tensor,
}
"""cause -> its hypotheses, cheapest experiments first. Another one is one function and one row."""


IN_SAMPLING_ALONE = (
    "logprob-precision",
    "shift-by-one",
    "terminal-token",
    "raw-logprobs-temperature",
    "sampler-truncation",
    "sampling-penalties",
    "logit-scale",
    "partial-normaliser",
    "impossible-token",
    "sliding-window",
    "kv-cache-quantisation",
    "stale-weights",
)
"""Rows that can make sampling differ from re-scoring; anything else is wrong with both."""


def hypotheses_for(clues: Clues) -> list[Hypothesis]:
    """Everything that could be wrong with a suspect and can be simulated."""
    rows = IN_SAMPLING_ALONE if clues.suspect == "decode" else tuple(PREDICTIONS)
    return [h for row in rows for h in PREDICTIONS[row](clues)]
