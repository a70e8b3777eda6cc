"""One side does not cap the final logits."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="logit-softcap",
    family="semantics",
    title="One side does not cap the final logits",
    mechanism=(
        "Gemma 2 and others squash logits with c * tanh(z / c) before the softmax. A side that "
        "leaves this out, often a fused loss kernel or an engine path of its own, keeps the large "
        "logits as they are."
    ),
    signature=(
        "Hidden states agree. Differences sit on very confident tokens, because small logits pass "
        "the cap unchanged. No single scale or offset fits all tokens; the tanh does."
    ),
    confirmation=(
        "Offline, the reference without its cap reproduces the wrong side, and a scale does not. "
        "Use prompts with confident answers: on small logits a cap and a scale look alike."
    ),
    remedy_id="logit-softcap",
    remedy="Apply final_logit_softcapping on both sides, after the head and before temperature.",
    remedies={
        "verl": (
            "Set actor_rollout_ref.model.use_fused_kernels=False and "
            "actor_rollout_ref.model.use_liger=False, unless the kernel in use takes the cap."
        ),
        "TRL": (
            "Set use_liger_kernel=False, or check that your Liger version passes the softcap of "
            "this model."
        ),
        "NeMo-RL": (
            "Use the model class of the checkpoint's own family. There is no setting for the cap: "
            "check the converted model with mismatch-lab before training."
        ),
        "slime": (
            "Check that the Megatron model applies the cap; where it does not, supply one that "
            "does with --custom-model-provider-path."
        ),
        "FSDP": "Take logits from the model's forward, or apply the cap yourself after lm_head.",
    },
    sources=("https://github.com/vllm-project/vllm/pull/6051",),
    fault="final-softcap",
    neighbours=(
        "logit-scale",
        "attention-softcap",
        "raw-logprobs-temperature",
    ),
)
