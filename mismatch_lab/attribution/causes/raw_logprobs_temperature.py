"""The engine's log-probs ignore the temperature it samples with."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="raw-logprobs-temperature",
    family="semantics",
    title="The engine's log-probs ignore the temperature it samples with",
    mechanism=(
        "The engine divides logits by the temperature T before it samples, but returns log-probs "
        "of the undivided logits. vLLM's default, logprobs_mode=raw_logprobs, is such a case. The "
        "trainer divides by T, so the two sides normalise different distributions. A variant "
        "divides the log-probs instead of the logits: those no longer sum to one."
    ),
    signature=(
        "Nothing at T = 1. At any other T, logits and hidden states agree, and one scalar, T "
        "itself, maps the engine's distribution onto the trainer's for every token. The difference "
        "grows with the entropy of the token, not with position, depth or training step. Greedy "
        "answers do not change. Where log-probs agree and the sampler divides by another "
        "temperature than it was asked for, only the tokens show it: they are likelier, or less "
        "likely, than the reported distributions allow."
    ),
    confirmation=(
        "Sample again with --temperature 1: the difference falls to the floor. Or keep T and ask "
        "vLLM for --engine-arg logprobs_mode=processed_logprobs. Offline, dividing the reference's "
        "logits by 1 instead of T reproduces the engine's values token by token."
    ),
    remedy_id="processed-logprobs",
    remedy=(
        "Take log-probs after temperature (processed_logprobs), or sample at temperature 1. "
        "Re-scoring with the engine's prefill does not help at T other than 1: prompt log-probs "
        "are always raw."
    ),
    remedies={
        "verl": (
            "Set actor_rollout_ref.rollout.logprobs_mode=processed_logprobs (older versions: "
            "actor_rollout_ref.rollout.engine_kwargs.vllm.logprobs_mode), or "
            "actor_rollout_ref.rollout.temperature=1.0."
        ),
        "TRL": (
            "Use a version with the fix of issue 4159, which asks vLLM for processed log-probs, or "
            "set temperature=1.0 in GRPOConfig."
        ),
        "NeMo-RL": (
            "Set policy.generation.vllm_kwargs.logprobs_mode=processed_logprobs, or "
            "policy.generation.temperature=1.0."
        ),
        "slime": (
            "SGLang returns output log-probs after temperature unless the environment sets "
            "SGLANG_RETURN_ORIGINAL_LOGPROB=1: unset it. Or set --rollout-temperature 1."
        ),
        "FSDP": (
            "Divide the logits by the sampling temperature before log_softmax, and start vLLM with "
            "--logprobs-mode processed_logprobs."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/issues/4159",
        "https://github.com/vllm-project/vime/pull/69",
        "https://github.com/NVIDIA-NeMo/RL/issues/902",
        "https://github.com/vllm-project/vllm/pull/37082",
    ),
    fault="raw-temperature",
    neighbours=(
        "logit-scale",
        "sampler-truncation",
        "logit-softcap",
    ),
)
