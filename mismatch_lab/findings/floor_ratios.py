"""Each error over the noise floor, mean over mean and on the typical token, with its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mismatch_lab.schema import EstimateRecord, Limits, NoiseFloor

OWN_ERROR = 0.5
"""A side's error against the reference is its own if it shows against the other side too: the edge
then is 0.7 times as many floors (one error of two) or more. Where both sides share an error they
are the same policy, and it is the reference that differs."""


@dataclass(frozen=True)
class FloorRatio:
    """An error over the floor, with the limit that it is held against."""

    name: str
    estimate: EstimateRecord
    limit: float
    typical: bool
    """On the typical token; otherwise mean over mean."""

    @property
    def leaves(self) -> bool:
        """Whether its whole interval lies beyond the limit."""
        return self.estimate.ci95[0] > self.limit

    @property
    def reason(self) -> str:
        """That it leaves the floor, in words."""
        times = f"{number(self.estimate)} times what this precision does"
        if self.typical:
            return (
                f"Beyond the noise floor token by token: {self.name} is typically {times} to the "
                f"same token (limit {self.limit:g})."
            )
        return f"Beyond the noise floor: {self.name} is {times} (limit {self.limit:g})."


NAMES = {
    "infer": "the engine's error",
    "train": "the trainer's error",
    "decode": "the engine's error while sampling",
    "edge": "engine against trainer",
}


def floor_ratios(floor: NoiseFloor, limits: Limits) -> list[FloorRatio]:
    """Every error over the floor: means first, then typical tokens."""
    means = {name: getattr(floor, f"{name}_ratio") for name in NAMES}
    found = [
        FloorRatio(NAMES[name], mean, limits.floor_ratio, typical=False)
        for name, mean in means.items()
        if mean is not None
    ]
    if floor.typical is not None:
        found += [
            FloorRatio(text, getattr(floor.typical, name), limits.floor_typical_ratio, typical=True)
            for name, text in NAMES.items()
        ]
    return found


def own_ratios(floor: NoiseFloor, limits: Limits) -> list[FloorRatio]:
    """How many times the floor each error is, of those that are not shared by both sides."""
    edges = {False: floor.edge_ratio.value}
    if floor.typical is not None:
        edges[True] = floor.typical.edge.value
    return [
        ratio
        for ratio in floor_ratios(floor, limits)
        if not edges[ratio.typical] < OWN_ERROR * ratio.estimate.value
    ]


def leaving(floor: NoiseFloor, limits: Limits) -> list[FloorRatio]:
    """Own errors beyond their limits, each said once: by its mean where that shows it, sampling
    only where re-scoring does not show the same, and the edge token by token only where no side is.
    """
    found: list[FloorRatio] = []
    for ratio in own_ratios(floor, limits):
        said = {one.name for one in found}
        known = {ratio.name} if ratio.name != NAMES["decode"] else {ratio.name, NAMES["infer"]}
        if ratio.typical and ratio.name == NAMES["edge"]:
            known = set(NAMES.values())
        if ratio.leaves and not known & said:
            found.append(ratio)
    return found


def number(estimate: EstimateRecord) -> str:
    """With its interval, where there is one."""
    low, high = estimate.ci95
    if not (math.isfinite(low) and math.isfinite(high)):
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(low)}, {figure(high)}]"


def figure(value: float) -> str:
    """Three figures, without an exponent where people would write none."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
