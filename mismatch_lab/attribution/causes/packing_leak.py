"""Packed sequences see their neighbours."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="packing-leak",
    family="tokens",
    title="Packed sequences see their neighbours",
    mechanism=(
        "Several sequences lie in one row, and attention is not stopped at their borders, or "
        "positions run on. Later sequences then attend to earlier ones."
    ),
    signature=(
        "The first sequence of each pack is exact. Later ones are wrong, most at their start, less "
        "as their own context grows. The result depends on which sequences share a pack, so the "
        "trainer disagrees with itself when the micro-batch changes."
    ),
    confirmation=(
        "Score with one sequence per forward (--trainer-arg micro_batch=1, packing off): the "
        "difference goes away. train_train with another micro-batch size shows it without the "
        "engine."
    ),
    remedy_id="document-mask",
    remedy=(
        "Pass the borders to attention (cu_seqlens, or position ids that restart at each sequence) "
        "with a kernel that heeds them, or do not pack."
    ),
    remedies={
        "verl": (
            "Test with actor_rollout_ref.model.use_remove_padding=False and "
            "actor_rollout_ref.actor.use_dynamic_bsz=False. To keep packing use flash attention."
        ),
        "TRL": (
            "GRPO pads and does not pack; check your own collator if it does. Packing needs flash "
            "attention."
        ),
        "NeMo-RL": "Test with policy.sequence_packing.enabled=false.",
        "slime": (
            "Test with one sequence per micro-batch: no --use-dynamic-batch-size and "
            "--micro-batch-size 1."
        ),
        "FSDP": (
            "Use flash attention with position_ids that restart, or a block-diagonal 4-D mask. "
            "Recent transformers infers the borders from restarted position ids, but only where no "
            "4-D mask is passed."
        ),
    },
    sources=(
        "https://github.com/huggingface/nanoVLM/pull/204",
        "https://github.com/AI-Hypercomputer/maxtext/pull/5198",
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/1868",
    ),
    fault="packing-leak",
    neighbours=(
        "packing-boundary",
        "batch-variance",
        "stale-prefix-cache",
    ),
)
