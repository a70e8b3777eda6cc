"""The engine samples with penalties that the trainer does not know."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="sampling-penalties",
    family="semantics",
    title="The engine samples with penalties that the trainer does not know",
    mechanism=(
        "A repetition, presence or frequency penalty changes the logits of tokens already seen. It "
        "is often set by nobody: fields left open resolve to the checkpoint's "
        "generation_config.json. Samples then come from another distribution than the one the "
        "trainer scores."
    ),
    signature=(
        "With processed log-probs the sign splits by history: tokens already in the context are "
        "less likely to the engine, and all unseen tokens of a position share one offset. More "
        "tokens are hit later in a sequence. With raw log-probs delta is at the floor, and only "
        "the tokens show it: they are likelier under the penalty than under what is reported."
    ),
    confirmation=(
        "Sample again with --engine-arg generation_config=vllm (this tool's default) or explicit "
        "neutral penalties. Offline, the reference's logits with the penalty applied to the tokens "
        "seen so far give the engine's values. For raw log-probs, the calibration z of the report "
        "returns to normal."
    ),
    remedy_id="neutral-sampling",
    remedy=(
        "Pass every sampling field explicitly, with neutral penalties, and do not let the engine "
        "read generation_config.json."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.rollout.engine_kwargs.vllm.generation_config=vllm, or remove "
            "the penalties from the checkpoint's generation_config.json."
        ),
        "TRL": (
            "Leave repetition_penalty=1.0 in GRPOConfig, and no penalties in generation_kwargs. "
            "TRL passes it explicitly."
        ),
        "NeMo-RL": (
            "Set policy.generation.vllm_kwargs.generation_config=vllm (see issue 3497), or remove "
            "the penalties from the checkpoint's generation_config.json."
        ),
        "slime": (
            "Start SGLang with --sglang-sampling-defaults openai, so that generation_config.json "
            "is not read."
        ),
        "FSDP": (
            "Send repetition_penalty=1, presence_penalty=0 and frequency_penalty=0 with each "
            "request. Start vLLM with --generation-config vllm, SGLang with --sampling-defaults "
            "openai."
        ),
    },
    sources=(
        "https://github.com/NVIDIA-NeMo/RL/issues/3497",
        "https://github.com/verl-project/verl/issues/7270",
        "https://github.com/OpenPipe/ART/pull/140",
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/886",
    ),
    fault="repetition-penalty",
    neighbours=(
        "sampler-truncation",
        "raw-logprobs-temperature",
    ),
)
