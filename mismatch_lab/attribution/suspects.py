"""Who is wrong: the engine while sampling, its re-scoring, or the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mismatch_lab.attribution.hypotheses import Suspect
from mismatch_lab.attribution.token_changes import Float64
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

SOUND = {"decode": "prefill", "infer": "ref", "train": "ref"}
"""What each suspect is held against."""

SUSPECTS: tuple[Suspect, ...] = ("train", "infer", "decode")

CAPTURED = {"decode": "decode", "infer": "prefill", "train": "train"}


def side_of(run: RunSpec, suspect: Suspect) -> SideSpec:
    """The program that a suspect is, or is a part of."""
    return run.train if suspect == "train" else run.infer


@dataclass(frozen=True)
class Charge:
    """A suspect with what it said and what a sound program says."""

    suspect: Suspect
    observed: Float64
    """[T]"""
    sound: Float64
    """[T]"""
    error_nats: float
    """mean |observed - sound| over sampled tokens; NaN where none has both."""
    noise_nats: float
    """What a sound program's error may come to."""


def charges(
    captures: Mapping[str, Capture],
    edges: Mapping[str, Measures],
    floor: NoiseFloor,
    localisation: Localisation | None,
    limits: Limits,
) -> list[Charge]:
    """Everyone whose error is more than precision, the re-scoring before the sampling: what is
    wrong with the model explains part of what is wrong with sampling from it.
    """
    noise = noise_of(floor, limits)
    found: list[Charge] = []
    for suspect in ("train", "infer"):
        located = localisation is not None and localisation.side == suspect
        if leaves_floor(floor, suspect, limits) or located:
            found.append(_charge_by_floor(suspect, captures, floor, limits))
    # Hidden states, and with them the engine's own error, are those of its eager code.
    sampling = edges.get("decode_eager", edges.get("decode_prefill"))
    if sampling is not None:
        size = sampling["abs_delta_mean"]
        if size.ci95[0] > max(math.sqrt(2) * noise, limits.match_abs_delta_nats):
            found.append(charge_of("decode", captures, noise))
        elif _sampling_alone(floor, size, limits):
            found.append(_charge_by_floor("decode", captures, floor, limits))
    return found or [_likelier(captures, floor, noise)]


def _sampling_alone(floor: NoiseFloor, size: EstimateRecord, limits: Limits) -> bool:
    """Whether sampling leaves the floor where re-scoring does not: an error of its own below the
    2.5 sqrt(2) floors by which two sound programs may differ.
    """
    own = size.ci95[0] > max(floor.precision.value, limits.match_abs_delta_nats)
    return (
        own and leaves_floor(floor, "decode", limits) and not leaves_floor(floor, "infer", limits)
    )


def _charge_by_floor(
    suspect: Suspect, captures: Mapping[str, Capture], floor: NoiseFloor, limits: Limits
) -> Charge:
    """A charge; of one whose mean is within the limit, with as much less noise.

    Explained, it is one floor away; so what tells it from that lies halfway, on a log scale.
    """
    noise = noise_of(floor, limits)
    charge = charge_of(suspect, captures, noise)
    if charge.error_nats > noise or not leaves_typically(floor, suspect, limits):
        return charge
    halfway = math.sqrt(charge.error_nats * floor.precision.value)
    return replace(charge, noise_nats=max(min(noise, halfway), SMALLEST_NATS))


def noise_of(floor: NoiseFloor, limits: Limits) -> float:
    """What a sound program's mean error may come to, in nats."""
    return max(limits.floor_ratio * floor.precision.ci95[1], SMALLEST_NATS)


SMALLEST_NATS = 3e-6
"""Kernels of different programs differ by this much in fp32 where nothing is wrong."""


def charge_of(suspect: Suspect, captures: Mapping[str, Capture], noise_nats: float) -> Charge:
    """Hold a suspect's capture against what it should be."""
    observed = captures[CAPTURED[suspect]].logp.astype(np.float64)
    sound = captures[SOUND[suspect]].logp.astype(np.float64)
    error = np.abs(observed - sound)[captures["decode"].rows.sampled]
    known = error[~np.isnan(error)]
    mean = float(known.mean()) if len(known) else math.nan
    return Charge(suspect, observed, sound, mean, noise_nats)


def _likelier(captures: Mapping[str, Capture], floor: NoiseFloor, noise: float) -> Charge:
    """Nobody stands out: the side that is further from the reference."""
    worse: Suspect = "train" if floor.train_ratio.value >= floor.infer_ratio.value else "infer"
    return charge_of(worse, captures, noise)


CLEARLY = 20.0
"""A token is off by itself when it is off by this many times the noise."""

HARDLY_ANY = 0.02
"""Share of tokens that chance puts there."""


def raises_only(charge: Charge) -> bool:
    """Whether hardly any token of the suspect's is clearly less likely than it should be."""
    error = charge.observed - charge.sound
    error = error[np.isfinite(error)]
    if not len(error):
        return False
    return float(np.mean(error < -CLEARLY * charge.noise_nats)) <= HARDLY_ANY
