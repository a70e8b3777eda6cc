"""One side does not apply the model's logit scale."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="logit-scale",
    family="semantics",
    title="One side does not apply the model's logit scale",
    mechanism=(
        "Granite, Cohere, Falcon-H1 and MiniCPM multiply or divide the final logits by a constant "
        "of the config (logits_scaling, logit_scale, lm_head_multiplier). A side that drops it is "
        "too confident or not confident enough."
    ),
    signature=(
        "As with a temperature, one scalar maps one distribution onto the other for every token, "
        "and hidden states agree. But it is there at temperature 1 too, and the scalar is a "
        "constant of the config. The most likely token does not change, so evaluations pass."
    ),
    confirmation=(
        "Sample at --temperature 1: a temperature cause disappears, this one stays. Offline, the "
        "reference without the scale gives the values of the wrong side."
    ),
    remedy_id="logit-scale",
    remedy=(
        "Make both sides apply the constant once, before temperature and softmax. Look for it "
        "first in fused loss kernels, which work on hidden states and the head alone."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.model.use_fused_kernels=False and "
            "actor_rollout_ref.model.use_liger=False: then the model's own forward applies it."
        ),
        "TRL": "Set use_liger_kernel=False, so that the logits come from the model's own forward.",
        "NeMo-RL": (
            "Use a model class that applies the constant. There is no setting for it: check the "
            "converted Megatron or Automodel model with mismatch-lab before training."
        ),
        "slime": (
            "Check that the Megatron model applies the config's constant; where it does not, "
            "supply one that does with --custom-model-provider-path."
        ),
        "FSDP": (
            "Take logits from the model's forward, not from lm_head alone. If you call lm_head "
            "yourself, apply the config's constant."
        ),
    },
    sources=(
        "https://github.com/vllm-project/vllm/pull/52158",
        "https://github.com/unslothai/unsloth/pull/11277",
    ),
    fault="logit-scale",
    neighbours=(
        "raw-logprobs-temperature",
        "logit-softcap",
    ),
)
