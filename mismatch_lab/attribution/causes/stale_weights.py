"""The engine runs weights of an earlier step."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="stale-weights",
    family="weights",
    title="The engine runs weights of an earlier step",
    mechanism=(
        "No update arrived, or it arrived late: an asynchronous run by design, a failed sync that "
        "reported success, a resume that loaded the initial checkpoint, a sleep that dropped the "
        "weights."
    ),
    signature=(
        "Nothing at step 0, all layers from the first on, all tensors differ. The engine agrees "
        "with an earlier checkpoint to the floor. Honest staleness shrinks with a shorter sync "
        "interval; a sync that never happens does not."
    ),
    confirmation=(
        "Score the engine's tokens with earlier checkpoints: one of them agrees to the floor and "
        "tells how many steps the engine is behind. Fingerprints of all tensors differ."
    ),
    remedy_id="sync-now",
    remedy=(
        "Make the engine report a weight version and check it before sampling. If staleness is "
        "meant, correct with importance weights and bound the age."
    ),
    remedies={
        "verl": (
            "In asynchronous recipes lower the allowed staleness; check the sync with a checksum "
            "of one pushed tensor per step. After resume sync before the first rollout."
        ),
        "TRL": (
            "Update if you use vllm_enable_sleep_mode (issue 5312: a deep sleep dropped the "
            "weights)."
        ),
        "NeMo-RL": (
            "Lower grpo.async_grpo.max_trajectory_age_steps, and set "
            "loss_fn.use_importance_sampling_correction=true."
        ),
        "slime": (
            "Check --check-weight-update-equal after a resume (issue 1695), and keep synchronous "
            "training while you look."
        ),
        "FSDP": (
            "Send a version number with the weights and read it back with every batch of samples."
        ),
    },
    sources=(
        "https://github.com/verl-project/verl/issues/6780",
        "https://github.com/huggingface/trl/issues/5312",
        "https://github.com/THUDM/slime/issues/1695",
        "https://github.com/sail-sg/Precision-RL/issues/10",
    ),
    fault="stale-weights",
    neighbours=(
        "adapter-not-delivered",
        "stale-tensor",
        "stale-prefix-cache",
    ),
)
