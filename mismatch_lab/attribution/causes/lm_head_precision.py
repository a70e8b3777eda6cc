"""The LM head runs in lower precision on one side."""

from mismatch_lab.attribution.causes.base import LARGEST_LOGITS_NATS, CauseEntry

CAUSE = CauseEntry(
    id="lm-head-precision",
    family="precision",
    title="The LM head runs in lower precision on one side",
    mechanism=(
        "Hidden state times head is the largest matrix product of the model. In bfloat16 its "
        "logits are rounded to steps that are coarse at the size logits have. If one side computes "
        "the head in float32 and the other does not, the rounding is a difference between the "
        "sides."
    ),
    signature=(
        "Hidden states agree, and the logits of one side lie on the bfloat16 grid. Differences "
        "have mean zero, are symmetric, do not depend on position, and are there from the first "
        "step. Float32 on one side only can be worse than on neither."
    ),
    confirmation=(
        'Run the head in float32 on both sides: vLLM takes --hf-overrides \'{"head_dtype": '
        '"float32"}\', SGLang --enable-fp32-lm-head. Offline, the reference with its head alone '
        "in bfloat16 gives the wrong side's values."
    ),
    remedy_id="fp32-lm-head",
    remedy=(
        "Compute the head in float32 on both sides, or on neither. Check that it took effect: with "
        "tied embeddings it can be silently ignored."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides.head_dtype=float32, and "
            "cast the head in the actor too: there is no actor setting for the head alone."
        ),
        "TRL": (
            "Set cast_lm_head_to_fp32=True (untied embeddings only), and vLLM's head_dtype=float32 "
            "as well: on one side only it makes things worse."
        ),
        "NeMo-RL": (
            "Set policy.generation.vllm_kwargs.hf_overrides.head_dtype=float32 together with the "
            "policy side; pull request 3936 describes both."
        ),
        "slime": (
            "Set --sglang-enable-fp32-lm-head, and make Megatron's output layer produce float32 "
            "logits as well."
        ),
        "FSDP": (
            "Cast the last hidden state and lm_head.weight to float32 before the product, and keep "
            "lm_head out of the mixed-precision policy of fully_shard."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/pull/3936",
        "https://github.com/vllm-project/vllm/pull/48390",
        "https://github.com/sgl-project/sglang/issues/10490",
        "https://github.com/ServiceNow/Fast-LLM/pull/525",
    ),
    fault="lm-head-bf16",
    neighbours=(
        "logprob-precision",
        "stale-tensor",
        "untied-head",
        "numerics-floor",
    ),
    largest_nats=2.0**-8 * LARGEST_LOGITS_NATS,  # bfloat16 has 7
)
