"""Some tensors were not updated in the engine."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="stale-tensor",
    family="weights",
    title="Some tensors were not updated in the engine",
    mechanism=(
        "A weight update leaves tensors out: names that do not match, fused or padded tensors, a "
        "cached float32 copy of the head, tensors behind a quantised or repacked layout. The "
        "engine runs a mixture of old and new."
    ),
    signature=(
        "Nothing at step 0. After updates, a difference that grows with the distance travelled and "
        "begins in the layer of the stale tensor: everything before it agrees. Fingerprints name "
        "the tensor, unless the engine repacked it."
    ),
    confirmation=(
        "Compare fingerprints of all tensors. Offline, the reference with just these tensors of "
        "the previous checkpoint reproduces the engine. A freshly started engine is right."
    ),
    remedy_id="full-sync",
    remedy=(
        "Send every tensor, fail on names that are not consumed, and rebuild derived copies. When "
        "in doubt start the engine anew from a saved checkpoint."
    ),
    remedies={
        "verl": (
            "Compare checksums of both sides after a sync (issue 6666 has a checker), and test "
            "with load_format=safetensors and a restarted rollout."
        ),
        "TRL": (
            "Test with a fresh vLLM server on a saved checkpoint; upgrade vLLM, whose partial "
            "reloads have open issues (48312)."
        ),
        "NeMo-RL": "Run tools/refit_verifier.py.",
        "slime": "Set --check-weight-update-equal; --update-weight-mode full instead of delta.",
        "FSDP": (
            "Use full names and full tensors (full_tensor() of each DTensor), and assert that "
            "load_weights returned every name you sent."
        ),
    },
    sources=(
        "https://github.com/vllm-project/vllm/issues/48312",
        "https://github.com/NovaSky-AI/SkyRL/pull/1345",
        "https://github.com/NovaSky-AI/SkyRL/issues/1680",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/2438",
    ),
    fault="stale-tensor",
    neighbours=(
        "stale-weights",
        "adapter-not-delivered",
        "untied-head",
        "stale-graph",
    ),
)
