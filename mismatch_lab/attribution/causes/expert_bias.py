"""The experts' biases are missing on one side."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="expert-bias",
    family="moe",
    title="The experts' biases are missing on one side",
    mechanism=(
        "GPT-OSS experts have biases on both projections. Kernels written for other MoE models "
        "have none, and skip the tensors."
    ),
    signature=(
        "The first MoE module diverges, attention before it does not, and router choices of that "
        "layer agree. The output is off by a moderate, input-independent vector per expert, not "
        "scaled and not unrelated."
    ),
    confirmation=(
        "Offline, the reference with its expert biases at zero reproduces the wrong side. "
        "Switching the MoE backend makes the difference come and go."
    ),
    remedy_id="expert-bias",
    remedy="Use an MoE kernel that takes biases, and check that loading skips no tensor.",
    remedies={
        "verl": (
            "Try vLLM's other MoE backends; for the FSDP actor set "
            "+actor_rollout_ref.model.override_config with transformers' eager experts "
            "implementation."
        ),
        "TRL": 'Test with model_init_kwargs={"experts_implementation": "eager"}.',
        "NeMo-RL": (
            "Test the policy with transformers' code (automodel_kwargs.force_hf=true), and change "
            "vLLM's MoE backend through policy.generation.vllm_kwargs."
        ),
        "slime": (
            "Change --sglang-moe-runner-backend; for Megatron do not set --disable-bias-linear."
        ),
        "FSDP": (
            'Load with experts_implementation="eager" to test, and read the loader\'s list of '
            "unexpected keys."
        ),
    },
    sources=(
        "https://github.com/vllm-project/vllm-gaudi/pull/1567",
        "https://github.com/kekzl/imp/pull/572",
    ),
    fault="expert-bias",
    neighbours=(
        "router-bias",
        "expert-layout",
        "stale-tensor",
    ),
)
