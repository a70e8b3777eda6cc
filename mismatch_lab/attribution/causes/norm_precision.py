"""Norms or residuals are computed or cast differently."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="norm-precision",
    family="precision",
    title="Norms or residuals are computed or cast differently",
    mechanism=(
        "RMSNorm squares and averages in float32 on one side and in bfloat16 on the other, or the "
        "cast back comes before the multiplication with the weight instead of after it. The "
        "residual stream may be kept in another dtype as well."
    ),
    signature=(
        "Every layer adds a little, from the first norm on, and the difference grows with depth. "
        "It is the same at all positions. Isolated errors single out the norm modules, not "
        "attention or the MLP."
    ),
    confirmation=(
        "Run both sides in float32: it disappears, as does the floor. Offline, the reference in "
        "the sides' dtype with the norm's cast order changed gives the wrong side's values better "
        "than the plain reference in that dtype does."
    ),
    remedy_id="fp32-norms",
    remedy=(
        "Compute norms in float32 and use the same cast order on both sides. Small differences of "
        "cast order belong to the floor and need no action."
    ),
    remedies={
        "verl": (
            "There is no setting. actor_rollout_ref.model.use_liger=False and "
            "use_fused_kernels=False take fused norms out of the actor."
        ),
        "TRL": (
            'Set use_liger_kernel=False; vllm_model_impl="transformers" gives the engine the '
            "trainer's norm code."
        ),
        "NeMo-RL": (
            "Try the rms_norm choice of the Automodel backend settings, or "
            "automodel_kwargs.force_hf=true for transformers' code."
        ),
        "slime": (
            "With FSDP, --true-on-policy-mode aligns these operations with SGLang "
            "(--sglang-rl-on-policy-target fsdp). With Megatron there is no setting."
        ),
        "FSDP": (
            "Leave norm weights in float32 where the model says so: fully_shard does not heed "
            "_keep_in_fp32_modules, so give norms their own mixed-precision policy."
        ),
    },
    sources=(
        "https://github.com/sgl-project/sglang/pull/20108",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/1167",
        "https://github.com/NVIDIA-NeMo/Automodel/issues/2143",
    ),
    fault="norm-bf16",
    neighbours=(
        "numerics-floor",
        "lm-head-precision",
    ),
)
