"""Log-probs are rounded in the log-softmax or on their way."""

from mismatch_lab.attribution.causes.base import LARGEST_LOGITS_NATS, CauseEntry

CAUSE = CauseEntry(
    id="logprob-precision",
    family="precision",
    title="Log-probs are rounded in the log-softmax or on their way",
    mechanism=(
        "The log-softmax runs in bfloat16, because the model returns logits in its own dtype and "
        "nobody casts them, or log-probs are stored or sent as bfloat16. bfloat16 has 8 bits of "
        "mantissa, so the error grows with the size of the log-prob."
    ),
    signature=(
        "The log-probs themselves lie on the bfloat16 grid, the logits do not have to. The error "
        "is proportional to |log-prob|: nothing on likely tokens, most on unlikely ones. Unfused "
        "code may even return log-probs above zero. Hidden states agree."
    ),
    confirmation=(
        "Look at the values: rounding them to bfloat16 changes nothing. Cast logits to float32 "
        "before log_softmax and the values leave the grid. Which side's values lie on the grid "
        "says where the rounding is; in the engine's copy only, it is the transport."
    ),
    remedy_id="fp32-logprobs",
    remedy=(
        "Cast logits to float32 before log_softmax, and keep log-probs and their ratios in float32 "
        "from the engine to the loss."
    ),
    remedies={
        "verl": (
            "Use a version that casts logits to float32 before the log-softmax. "
            "actor_rollout_ref.model.use_fused_kernels=False rules a kernel out."
        ),
        "TRL": (
            "Use a version that casts logits to float32 in its log-softmax, and set "
            "use_liger_kernel=False to rule the kernel out."
        ),
        "NeMo-RL": (
            "Log-probs are computed in float32. Check that policy.megatron_cfg.defer_fp32_logits "
            "did not move the cast behind your own code."
        ),
        "slime": (
            "Do not cast rollout log-probs to the training dtype in custom hooks (see pull request "
            "245)."
        ),
        "FSDP": (
            "torch.log_softmax(logits.float(), dim=-1), and store float32. Code under autocast "
            "needs the cast too."
        ),
    },
    sources=(
        "https://github.com/OpenRLHF/OpenRLHF/pull/634",
        "https://github.com/THUDM/slime/pull/245",
        "https://github.com/sgl-project/sglang/pull/20108",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/568",
    ),
    fault="log-softmax-bf16",
    neighbours=(
        "lm-head-precision",
        "sentinel-values",
        "numerics-floor",
    ),
    largest_nats=2.0**-8 * LARGEST_LOGITS_NATS,  # bfloat16 has 7
)
