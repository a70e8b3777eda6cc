"""Attention runs without the model's sinks."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="attention-sinks-dropped",
    family="attention",
    title="Attention runs without the model's sinks",
    mechanism=(
        "GPT-OSS has a learned logit per head that takes part in the softmax of attention and is "
        "then dropped, so that a head can attend to nothing. A kernel without support for it "
        "(FlashAttention 2, some sequence-parallel and packed paths) leaves it out, silently."
    ),
    signature=(
        "Wrong from the very first token, where a single key makes every other attention cause "
        "vanish. The first attention module diverges; its output per head is the right one times a "
        "positive factor of at least 1, the direction unchanged. All layers, all steps."
    ),
    confirmation=(
        "Switch the attention backend: --trainer-arg attn_implementation=eager, or an "
        "implementation that takes sinks. Offline, the reference with its sinks turned off says "
        "what the wrong side says, token by token."
    ),
    remedy_id="attention-sinks",
    remedy=(
        "Use an attention implementation that applies sinks, forward and backward, and check it: "
        "which backend drops them changes from version to version."
    ),
    remedies={
        "verl": (
            "Set +actor_rollout_ref.model.override_config.attn_implementation=eager (slow; measure "
            "it), and keep Ulysses sequence parallelism off unless your version splits the sinks."
        ),
        "TRL": (
            'Set model_init_kwargs={"attn_implementation": "eager"}, or a kernel with sinks such '
            "as kernels-community/vllm-flash-attn3 if it has the backward you need."
        ),
        "NeMo-RL": (
            "With DTensor set policy.sequence_packing.enabled=false, because packing switches to "
            "FlashAttention 2 (issue 1672); or use the Megatron policy."
        ),
        "slime": (
            "With Megatron set --softmax-type learnable; with FSDP set --attn-implementation to "
            "one that applies sinks. Measure: reports on eager contradict each other."
        ),
        "FSDP": (
            'Load with attn_implementation="eager" or a kernel that takes s_aux. Any kernel that '
            "returns the log-sum-exp can be corrected: multiply its output by sigmoid(lse - sink)."
        ),
    },
    sources=(
        "https://huggingface.co/blog/LinkedIn/gpt-oss-agentic-rl",
        "https://github.com/verl-project/verl/issues/3894",
        "https://github.com/NVIDIA-NeMo/RL/issues/1672",
        "https://github.com/radixark/miles/pull/1500",
        "https://github.com/THUDM/slime/pull/996",
    ),
    fault="sinks-dropped",
    neighbours=(
        "sliding-window",
        "attention-softcap",
        "rope-scaling",
        "attention-scale",
    ),
)
