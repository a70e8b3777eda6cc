"""Knobs of sampling: what the engine is asked for."""

from __future__ import annotations

from typing import Any

from mismatch_lab.attribution.knobs.base import ASKED, Knob, Trial, Turn, all_but, plain
from mismatch_lab.engines.framework_options import GENERATION_ARGUMENT, PREFERRED
from mismatch_lab.schema import RunSpec

SEMANTICS = ("raw-logprobs-temperature", "sampler-truncation", "sampling-penalties")


def _sampled(run: RunSpec, **changed: Any) -> Turn | None:
    asked = run.probe.sampling
    wanted = asked.model_copy(update=changed)
    return None if wanted == asked else Turn(Trial(run.infer, wanted), ASKED)


def _no_generation_config(run: RunSpec) -> Turn | None:
    """Neither the checkpoint's nor what stands over it."""
    asked = {GENERATION_ARGUMENT, PREFERRED} & run.infer.args.keys()
    if not asked:
        return plain(run, "generation_config", "vllm")
    args = {name: value for name, value in run.infer.args.items() if name not in asked}
    if GENERATION_ARGUMENT in asked:
        args["generation_config"] = "vllm"
    return Turn(Trial(run.infer.model_copy(update={"args": args})), ASKED)


TEMPERATURE_1 = Knob(
    id="temperature-1",
    does="sampling at temperature 1",
    suspects=("decode",),
    turn=lambda run: _sampled(run, temperature=1.0),
    clears=frozenset({"raw-logprobs-temperature"}),
    keeps=all_but("raw-logprobs-temperature"),
)

TOP_P_1 = Knob(
    id="top-p-1",
    does="sampling from the whole distribution",
    suspects=("decode",),
    turn=lambda run: _sampled(run, top_p=1.0),
    may_clear=frozenset({"sampler-truncation"}),
    keeps=all_but("sampler-truncation"),
)

LOGPROBS_MODE = Knob(
    id="logprobs-mode",
    does="log-probs returned after temperature and truncation",
    suspects=("decode",),
    turn=lambda run: plain(run, "logprobs_mode", "processed_logprobs"),
    may_clear=frozenset(SEMANTICS),
    keeps=all_but(*SEMANTICS),
)

GENERATION_CONFIG = Knob(
    id="generation-config",
    does="nothing taken from the checkpoint's generation_config",
    suspects=("decode",),
    turn=_no_generation_config,
    may_clear=frozenset({"sampler-truncation", "sampling-penalties"}),
    keeps=all_but("sampler-truncation", "sampling-penalties"),
)
