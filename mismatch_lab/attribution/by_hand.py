"""Experiments on a server that its user has to make: what to start it with, and what would follow.

A server that runs is never changed. What an engine of ours would be started with in experiments
is listed as flags of the server, with the command that looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mismatch_lab.attribution.experiments import engine
from mismatch_lab.attribution.experiments.base import Experiment
from mismatch_lab.attribution.hypotheses import SuspectName
from mismatch_lab.attribution.suspects import suspect_of
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.findings.next_command import with_option
from mismatch_lab.schema import ByHand, Cause, Manifest, RunSpec

ENGINE: tuple[SuspectName, ...] = ("decode", "infer")


@dataclass(frozen=True)
class Setting:
    """An experiment as the flags of both servers."""

    experiment: Experiment
    vllm: str
    """Empty where vLLM has no such flag."""
    sglang: str


SETTINGS = (
    Setting(
        engine.LOGPROBS_MODE,
        "--logprobs-mode processed_logprobs",
        "without SGLANG_RETURN_ORIGINAL_LOGPROB=1",
    ),
    Setting(engine.GENERATION_CONFIG, "--generation-config vllm", "--sampling-defaults openai"),
    Setting(
        engine.FRESH_ENGINE,
        "nothing changed: a new start on the checkpoint",
        "nothing changed: a new start on the checkpoint",
    ),
    Setting(engine.PREFIX_CACHE, "--no-enable-prefix-caching", "--disable-radix-cache"),
    Setting(engine.KV_CACHE_DTYPE, "--kv-cache-dtype auto", "--kv-cache-dtype auto"),
    Setting(engine.EAGER_MODE, "--enforce-eager", "--disable-cuda-graph"),
    Setting(
        engine.ATTENTION_BACKEND,
        "another --attention-backend",
        "another --attention-backend (triton, fa3, flashinfer)",
    ),
    Setting(engine.QUANTISATION, "no --quantization", "no --quantization"),
    Setting(engine.ENGINE_FLOAT32, "--dtype float32", "--dtype float32"),
)
"""Cheap ones first: none changes what the model computes before the fifth."""


def to_try(
    run: RunSpec,
    captures: Mapping[str, Capture],
    noise_nats: float,
    causes: list[Cause],
    manifest: Manifest,
) -> list[ByHand]:
    """What is left to the user; empty where the engine is ours to start, or is not at fault.

    Args:
        run: what was asked.
        captures: of the run.
        noise_nats: what a sound side's error may come to.
        causes: named so far. One that a setting takes away is tried first, and only such ones.
        manifest: of the engine's sampling.
    """
    if run.infer.engine not in BLACK_BOXES:
        return []
    wrong = [s for s in ENGINE if suspect_of(s, captures, noise_nats).error_nats > noise_nats]
    named = {cause.id for cause in causes if cause.side != "train"}
    shown = [setting for setting in SETTINGS if set(setting.experiment.suspects) & set(wrong)]
    about = [setting for setting in SETTINGS if setting.experiment.cures & named]
    command = with_option(run.provenance.command, "--depth", run.depth)
    return [
        _by_hand(setting, flags, command, named)
        for setting in (about if named else shown)
        if (flags := _flags(setting, manifest)) and not _stands_so(setting, manifest, run)
    ]


def _flags(setting: Setting, manifest: Manifest) -> str:
    return setting.sglang if manifest.options.get("server") == "sglang" else setting.vllm


def _stands_so(setting: Setting, manifest: Manifest, run: RunSpec) -> bool:
    """Whether the server says that it is started so."""
    said = manifest.options
    return {
        "logprobs-mode": said.get("logprobs_mode") == "processed_logprobs",
        "eager-mode": said.get("enforce_eager") is True or said.get("disable_cuda_graph") is True,
        "prefix-cache": said.get("disable_radix_cache") is True,
        "engine-float32": run.infer.dtype == "float32",
    }.get(setting.experiment.id, False)


def _by_hand(setting: Setting, flags: str, command: str, named: set[str]) -> ByHand:
    cured = sorted(setting.experiment.cures & named if named else setting.experiment.cures)
    sure = sorted(setting.experiment.clears & set(cured))
    stays = f"not {_either(sure)}" if sure else "that setting alone does not bring it about"
    return ByHand(
        server_with=flags,
        command=command,
        if_gone=f"it is {_either(cured)}",
        if_it_stays=stays,
    )


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
