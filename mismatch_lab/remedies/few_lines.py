"""Fixes that need a few lines: a setting of the run, a change of the trainer's model, a ratio.

Larger ones have modules of their own; so have `attention_sinks` and `grouped_experts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mismatch_lab.remedies.base import Memory, Remedy

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.trainer.config import TrainConfig


def flushing(config: TrainConfig) -> TrainConfig:
    """The run with its cache flushed."""
    rollout = config.rollout.model_copy(update={"flush_cache": True})
    return config.model_copy(update={"rollout": rollout})


CACHE_FLUSH = Remedy(
    id="cache-flush",
    about="the engine's prefix cache is reset after every transfer of weights",
    formula="reset_prefix_cache() between transfer and sampling",
    source="molt and vLLM: cached prefixes across updates raise the KL 2 to 3 times",
    removes=("stale-prefix-cache",),
    configure=flushing,
)


def in_float16(config: TrainConfig) -> TrainConfig:
    """The run in float16: three more bits of mantissa than bfloat16."""
    return config.model_copy(update={"dtype": "float16"})


FP16 = Remedy(
    id="fp16",
    about="both sides compute in float16, the trainer with a scaled loss and float32 weights",
    formula="2^-11 relative rounding in place of 2^-8",
    source="Qi et al. 2025, Defeating the Training-Inference Mismatch via FP16, "
    "https://arxiv.org/abs/2510.26788",
    softens=("numerics-floor",),
    configure=in_float16,
)

SAMPLER_MASK = Remedy(
    id="sampler-mask",
    about="log-probs are renormalised over the engine's own nucleus at every token",
    formula="logp_train(a) = z_a - logsumexp(z_v : v in support_infer)",
    source="TRL #7269 (batch-gap study); prime-rl, top-p replay",
    removes=("sampler-truncation",),
    engine="vllm in one process",
    records="support",
)
"""`PolicyModel.forward` does it, with the support that `engine_recorder` saw in vLLM's sampler."""


def old_logp(logp: Tensor, logp_scored: Tensor, update: int) -> Tensor:
    """Denominator of the ratio in an update on a batch (counted from 0), [B, n].

    Refused where `loss.old = "infer"` asks for a ratio over the engine (`trainer/loss_ratio.py`).
    The mismatch it hides from the loss is measured all the same: `decode_train` and `train_train`
    are taken of the passes themselves, not of the ratio.
    """
    return logp.detach() if update == 0 else logp_scored


ON_POLICY_RATIO = Remedy(
    id="on-policy-ratio",
    about="the clipped ratio is 1 in the first update on a batch, whatever a second pass computes",
    formula="logp_old = stop_gradient(logp) in the first update, else of the scoring pass",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026); verl #3580",
    softens=("routing-two-pass", "batch-variance", "dropout-active"),
    old_logp=old_logp,
)


def with_sinks(model: Any) -> None:
    """Every layer of a GPT-OSS attends with sinks, also one whose attention was replaced by name.

    Raises:
        InputError: the model has no sinks.
    """
    from mismatch_lab.remedies.attention_sinks import interface

    for module in model.modules():
        if hasattr(module, "sinks") and hasattr(module, "config"):
            module.config = model.config
    interface.use(model)


ATTENTION_SINKS = Remedy(
    id="attention-sinks",
    about="the trainer's attention honours the learned sinks, forward and backward",
    formula="out = o·sigmoid(lse - s), ds = -sum exp(s - L)(dout·out)",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026); openai/gpt-oss",
    removes=("attention-sinks-dropped",),
    memory=Memory(attention="attention-sinks"),
    change_model=with_sinks,
)


def with_grouped_experts(model: Any) -> None:
    """Experts are summed in place, without materialising tokens per expert.

    Raises:
        InputError: its experts cannot be replaced by name.
    """
    from mismatch_lab.remedies.grouped_experts import interface

    interface.use(model)


GROUPED_EXPERTS = Remedy(
    id="grouped-experts",
    about="the trainer's experts run one after another and keep nothing for the backward pass",
    formula="out = sum_e w_e (gate(x U_e + u_e) D_e + d_e), recomputed in backward",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026): 180 GiB of materialised "
    "experts; Chen et al. 2016, https://arxiv.org/abs/1604.06174",
    memory=Memory(experts="grouped-experts"),
    change_model=with_grouped_experts,
)
"""It mends memory, and no cause of a mismatch."""
