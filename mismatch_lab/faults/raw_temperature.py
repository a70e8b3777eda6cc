"""The engine returns log-probs from before the temperature: vLLM's own default."""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, RunOptions


def options(strength: float) -> RunOptions:
    """Sampling at temperature 1 - strength."""
    return RunOptions(
        engine_args={"logprobs_mode": "raw_logprobs"}, sampling={"temperature": 1 - strength}
    )


FAULT = Fault(
    id="raw-temperature",
    about="raw log-probs returned, sampled at another temperature than 1",
    causes=("raw-logprobs-temperature",),
    family="semantics",
    side="infer",
    kind="options",
    severities={"plain": 0.4, "medium": 0.15, "slight": 0.02},
    engines=("vllm",),
    options=options,
)
