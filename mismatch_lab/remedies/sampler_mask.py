"""Sampler mask: the trainer's distribution is cut to the tokens that the engine could sample."""

from __future__ import annotations

from mismatch_lab.remedies.base import Remedy

REMEDY = Remedy(
    id="sampler-mask",
    about="log-probs are renormalised over the engine's own nucleus at every token",
    formula="logp_train(a) = z_a - logsumexp(z_v : v in support_infer)",
    source="TRL #7269 (batch-gap study); prime-rl, top-p replay",
    removes=("sampler-truncation",),
    engine="vllm in one process",
    records="support",
)
"""`PolicyModel.forward` does it, with the support that `engine_recorder` saw in vLLM's sampler."""
