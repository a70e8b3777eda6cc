"""The catalogue of experiments: what can be set otherwise, what each cause says of it, and which is
next: the cheapest that separates the causes in question, or confirms one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mismatch_lab.attribution.experiments import engine, sglang, trainer
from mismatch_lab.attribution.experiments.base import Experiment, Prepared
from mismatch_lab.attribution.hypotheses import SuspectName
from mismatch_lab.engines.base import AS_THEY_ARE, BLACK_BOXES, RECORDED
from mismatch_lab.schema import RunSpec

EXPERIMENTS: tuple[Experiment, ...] = (
    # sampling
    engine.TEMPERATURE_1,
    engine.TOP_P_1,
    engine.LOGPROBS_MODE,
    engine.GENERATION_CONFIG,
    # engine
    engine.FRESH_ENGINE,
    engine.PREFIX_CACHE,
    engine.KV_CACHE_DTYPE,
    engine.EAGER_MODE,
    engine.CHUNKED_PREFILL,
    engine.ATTENTION_BACKEND,
    engine.QUANTISATION,
    engine.ENGINE_FLOAT32,
    # SGLang
    sglang.RADIX_CACHE,
    sglang.CHUNKED_PREFILL,
    sglang.OVERLAP_SCHEDULE,
    sglang.CUDA_GRAPHS,
    sglang.DETERMINISTIC,
    sglang.ON_POLICY_TARGET,
    sglang.ORIGINAL_LOGPROB,
    # trainer
    trainer.PACKING_OFF,
    trainer.MICRO_BATCH_1,
    trainer.ATTENTION_EAGER,
    trainer.EXPERTS_EAGER,
    trainer.LIGER_OFF,
    trainer.AUTOCAST_OFF,
    trainer.ROUTING_REPLAY,
    trainer.TRAINER_FLOAT32,
    # a patched trainer
    trainer.STOCK_ATTENTION,
    trainer.STOCK_ROTARY,
    trainer.STOCK_ROTARY_TABLES,
    trainer.STOCK_HEAD,
    trainer.STOCK_NORMS,
    trainer.STOCK_EXPERTS,
    trainer.NO_DROPOUT,
)
"""Another one is one entry in its module and one row; a cause that it concerns is in its sets."""


@dataclass(frozen=True)
class Choice:
    """An experiment that can be made in this run."""

    experiment: Experiment
    prepared: Prepared


def choices(run: RunSpec, suspect: SuspectName) -> list[Choice]:
    """Every experiment that can be made in a run for one suspect."""
    found = []
    for experiment in EXPERIMENTS:
        prepared = experiment.prepared(run) if suspect in experiment.suspects else None
        if prepared is not None and _is_ours(run, prepared):
            found.append(Choice(experiment, prepared))
    return found


def _is_ours(run: RunSpec, prepared: Prepared) -> bool:
    """Whether the side can be set so: a server that runs is asked otherwise, never changed; what
    was recorded cannot be asked at all, and a function of the user's is run as it is.
    """
    spec = prepared.trial.spec
    if spec.engine in (RECORDED, *AS_THEY_ARE):
        return False
    return spec.engine not in BLACK_BOXES or spec == run.infer


def next_choice(open_choices: list[Choice], causes: Collection[str]) -> Choice | None:
    """The choice to try next; None where none says anything about the causes.

    Several causes want one of which they predict different things; one wants one that takes it
    away. Among those: the one most likely to matter, then the cheapest, then the one that
    separates most.
    """
    useful = [c for c in open_choices if _parts(c.experiment, causes)]
    if not useful:
        return None
    return min(
        useful, key=lambda c: (c.prepared.likely, c.prepared.slower, -_parts(c.experiment, causes))
    )


def _parts(experiment: Experiment, causes: Collection[str]) -> int:
    """How many pairs of causes it tells apart; of one cause, whether it confirms it."""
    cured = len(experiment.cures & set(causes))
    if len(causes) == 1:
        return cured
    return cured * len(experiment.leaves & set(causes))
