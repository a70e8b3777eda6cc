"""Who is wrong: the engine while sampling, its re-scoring, or the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.hypotheses import SuspectName
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.noise_floor import leaves_floor, leaves_typically
from mismatch_lab.schema import (
    EstimateRecord,
    Limits,
    Localisation,
    Measures,
    NoiseFloor,
    RunSpec,
    SideSpec,
)

HELD_AGAINST = {"decode": "prefill", "infer": "ref", "train": "ref"}
"""What each suspect is held against."""

SUSPECTS: tuple[SuspectName, ...] = ("train", "infer", "decode")

CAPTURED = {"decode": "decode", "infer": "prefill", "train": "train"}

SIDE: dict[str, Literal["infer", "train"]] = {"decode": "infer", "infer": "infer", "train": "train"}


def side_of(run: RunSpec, suspect: SuspectName) -> SideSpec:
    """The program that a suspect is, or is a part of."""
    return run.train if suspect == "train" else run.infer


@dataclass(frozen=True)
class Suspect:
    """A suspect with what it said and what a sound program says."""

    name: SuspectName
    observed: Float64
    """[T]"""
    expected: Float64
    """[T]"""
    error_nats: float
    """mean |observed - expected| over sampled tokens; NaN where none has both."""
    noise_nats: float
    """What a sound program's error may come to."""


def find_suspects(
    captures: Mapping[str, Capture],
    edges: Mapping[str, Measures],
    floor: NoiseFloor,
    localisation: Localisation | None,
    limits: Limits,
) -> list[Suspect]:
    """Everyone whose error is more than precision, the re-scoring before the sampling: what is
    wrong with the model explains part of what is wrong with sampling from it.
    """
    noise = noise_of(floor, limits)
    found: list[Suspect] = []
    for name in ("train", "infer"):
        located = localisation is not None and localisation.side == name
        if leaves_floor(floor, name, limits) or located:
            found.append(_by_floor(name, captures, floor, limits))
    # Hidden states, and with them the engine's own error, are those of its eager code.
    sampling = edges.get("decode_eager", edges.get("decode_prefill"))
    if sampling is not None:
        size = sampling["abs_delta_mean"]
        if size.ci95[0] > max(math.sqrt(2) * noise, limits.match_abs_delta_nats):
            found.append(suspect_of("decode", captures, noise))
        elif _sampling_alone(floor, size, limits):
            found.append(_by_floor("decode", captures, floor, limits))
    return found or [_likelier(captures, floor, noise)]


def _sampling_alone(floor: NoiseFloor, size: EstimateRecord, limits: Limits) -> bool:
    """Whether sampling leaves the floor where re-scoring does not: an error of its own below the
    2.5 sqrt(2) floors by which two sound programs may differ.
    """
    own = size.ci95[0] > max(floor.precision.value, limits.match_abs_delta_nats)
    return (
        own and leaves_floor(floor, "decode", limits) and not leaves_floor(floor, "infer", limits)
    )


def _by_floor(
    name: SuspectName, captures: Mapping[str, Capture], floor: NoiseFloor, limits: Limits
) -> Suspect:
    """A suspect; of one whose mean is within the limit, with as much less noise.

    Explained, it is one floor away; so what tells it from that lies halfway, on a log scale.
    """
    noise = noise_of(floor, limits)
    suspect = suspect_of(name, captures, noise)
    if suspect.error_nats > noise or not leaves_typically(floor, name, limits):
        return suspect
    halfway = math.sqrt(suspect.error_nats * floor.precision.value)
    return replace(suspect, noise_nats=max(min(noise, halfway), THRESHOLDS.smallest_nats))


def noise_of(floor: NoiseFloor, limits: Limits) -> float:
    """What a sound program's mean error may come to, in nats."""
    return max(limits.floor_ratio * floor.precision.ci95[1], THRESHOLDS.smallest_nats)


def suspect_of(name: SuspectName, captures: Mapping[str, Capture], noise_nats: float) -> Suspect:
    """Hold a name's capture against what it should be."""
    observed = captures[CAPTURED[name]].logp.astype(np.float64)
    expected = captures[HELD_AGAINST[name]].logp.astype(np.float64)
    error = np.abs(observed - expected)[captures["decode"].rows.sampled]
    known = error[~np.isnan(error)]
    mean = float(known.mean()) if len(known) else math.nan
    return Suspect(name, observed, expected, mean, noise_nats)


def _likelier(captures: Mapping[str, Capture], floor: NoiseFloor, noise: float) -> Suspect:
    """Nobody stands out: the side that is further from the reference."""
    worse: SuspectName = "train" if floor.train_ratio.value >= floor.infer_ratio.value else "infer"
    return suspect_of(worse, captures, noise)


def raises_only(suspect: Suspect) -> bool:
    """Whether hardly any token of the name's is clearly less likely than it should be."""
    error = suspect.observed - suspect.expected
    error = error[np.isfinite(error)]
    if not len(error):
        return False
    return (
        float(np.mean(error < -THRESHOLDS.clearly_below * suspect.noise_nats))
        <= THRESHOLDS.clearly_below_share
    )
