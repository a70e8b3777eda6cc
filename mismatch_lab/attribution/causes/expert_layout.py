"""Expert weights are laid out differently than the kernel expects."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="expert-layout",
    family="moe",
    title="Expert weights are laid out differently than the kernel expects",
    mechanism=(
        "Gate and up projections are interleaved in one format and stacked in the other; experts "
        "may be permuted, transposed or swizzled. A conversion that does not match the kernel "
        "makes experts compute something else, without an error."
    ),
    signature=(
        "Catastrophic from the first MoE (or MLP) module on: its output has no relation to the "
        "right one. Attention before it is fine. Router choices of that first layer agree."
    ),
    confirmation=(
        "At depth deep the isolated error of the first MoE module is of order one, and attention's "
        "is at the floor. Offline, the reference with gate and up exchanged or re-interleaved "
        "reproduces the wrong side. Switching the MoE backend tells kernel from checkpoint."
    ),
    remedy_id="expert-layout",
    remedy=(
        "Convert weights with the converter that belongs to the kernel, and check one layer on the "
        "same input before training."
    ),
    remedies={
        "verl": (
            "For Megatron use mbridge (actor_rollout_ref.actor.megatron.use_mbridge=True) rather "
            "than a hand-written conversion. In vLLM try another MoE backend."
        ),
        "TRL": (
            "Push weights in the checkpoint's layout; TRL passes transformers' names and shapes on "
            "as they are. Check after an upgrade of transformers or vLLM."
        ),
        "NeMo-RL": "Verify the conversion with tools/refit_verifier.py before training.",
        "slime": (
            "Convert with --megatron-to-hf-mode bridge, and check with --check-weight-update-equal."
        ),
        "FSDP": (
            "Compare one expert's output on one input with the engine's. transformers 5 holds all "
            "experts of a layer in one tensor."
        ),
    },
    sources=(
        "https://github.com/vllm-project/vllm/pull/44893",
        "https://github.com/vllm-project/vllm/pull/27024",
        "https://github.com/sgl-project/sglang/pull/27204",
    ),
    fault="expert-layout",
    neighbours=(
        "expert-bias",
        "stale-tensor",
        "weight-quantisation",
    ),
)
