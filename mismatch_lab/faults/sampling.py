"""What is asked of the sampler, by a checkpoint or by somebody, and what its log-probs are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mismatch_lab.captures.capture import Capture
from mismatch_lab.faults.base import Fault, RunOptions
from mismatch_lab.schema import OptionValue


def inherited(field: str, value: OptionValue) -> RunOptions:
    """The checkpoint carries the field, and the engine is told to follow the checkpoint."""
    return RunOptions(
        engine_args={"generation_config": "auto"}, checkpoint_edit=_setting(field, value)
    )


def _setting(field: str, value: OptionValue) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "generation_config.json"
        fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(fields | {field: value}, indent=1), encoding="utf-8")

    return edit


def inherit_min_p(strength: float) -> RunOptions:
    """The checkpoint's generation_config.json asks for min-p, and nobody unset it.

    Tokens below `strength` times the most probable one's probability are never drawn.
    """
    return inherited("min_p", strength)


def inherit_top_k(strength: float) -> RunOptions:
    """The checkpoint's generation_config.json asks for top-k, and nobody unset it.

    Sampling from the best 1 / strength tokens.
    """
    return inherited("top_k", round(1 / strength))


def inherit_repetition_penalty(strength: float) -> RunOptions:
    """The checkpoint's generation_config.json asks for a repetition penalty (Qwen2.5 does).

    A penalty of 1 + strength.
    """
    return inherited("repetition_penalty", 1 + strength)


def sample_nucleus(strength: float) -> RunOptions:
    """The engine renormalises over the nucleus, the trainer over the whole vocabulary.

    A nucleus of 1 - strength.
    """
    return RunOptions(sampling={"top_p": 1 - strength})


def raw_logprobs(strength: float) -> RunOptions:
    """The engine returns log-probs from before the temperature: vLLM's own default.

    Sampling at temperature 1 - strength.
    """
    return RunOptions(
        engine_args={"logprobs_mode": "raw_logprobs"}, sampling={"temperature": 1 - strength}
    )


def divide_logprobs(capture: Capture, strength: float) -> Capture:
    """The glue divides log-probs by the temperature, where logits were meant.

    Raw log-probs over the temperature: they no longer sum to 1.
    """
    return replace(capture, logp=capture.logp / (1 - strength))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="min-p",
        about="min-p inherited from generation_config.json",
        causes=("sampler-truncation",),
        family="semantics",
        side="infer",
        kind="options",
        severities={"plain": 0.3, "medium": 0.1, "slight": 0.01},
        engines=("vllm",),
        options=inherit_min_p,
    ),
    Fault(
        id="raw-temperature",
        about="raw log-probs returned, sampled at another temperature than 1",
        causes=("raw-logprobs-temperature",),
        family="semantics",
        side="infer",
        kind="options",
        severities={"plain": 0.4, "medium": 0.15, "slight": 0.02},
        engines=("vllm",),
        options=raw_logprobs,
    ),
    Fault(
        id="repetition-penalty",
        about="repetition penalty inherited from generation_config.json",
        causes=("sampling-penalties",),
        family="semantics",
        side="infer",
        kind="options",
        severities={"plain": 0.1, "medium": 0.02, "slight": 0.003},
        engines=("vllm",),
        options=inherit_repetition_penalty,
    ),
    Fault(
        id="temperature-on-logprobs",
        about="log-probs, not logits, divided by the temperature",
        causes=("raw-logprobs-temperature",),
        family="semantics",
        side="infer",
        kind="capture",
        severities={"plain": 0.4, "medium": 0.15, "slight": 0.02},
        engines=("vllm",),
        options=raw_logprobs,
        rewrite=divide_logprobs,
        target="decode",
    ),
    Fault(
        id="top-k",
        about="top-k inherited from generation_config.json",
        causes=("sampler-truncation",),
        family="semantics",
        side="infer",
        kind="options",
        severities={"plain": 1 / 2, "medium": 1 / 5, "slight": 1 / 20},
        engines=("vllm",),
        options=inherit_top_k,
    ),
    Fault(
        id="top-p",
        about="sampled from a nucleus whose log-probs are renormalised",
        causes=("sampler-truncation",),
        family="semantics",
        side="infer",
        kind="options",
        severities={"plain": 0.2, "medium": 0.05, "slight": 0.01},
        options=sample_nucleus,
    ),
)
