"""comparison.json: everything that the page and the terminal show."""

from __future__ import annotations

from typing import Any, Literal

from mismatch_lab.schema import EstimateRecord, Number, Provenance, Strict

State = Literal["finished", "unfinished"]


class ArmRecord(Strict):
    """What an arm was when the comparison was made."""

    name: str
    about: str
    faults: tuple[str, ...]
    fixes: tuple[str, ...]
    settings: dict[str, Any]
    mends: str
    """The arm that this one is, but for its fixes; empty for none."""


class RunRecord(Strict):
    """One arm with one seed."""

    arm: str
    seed: int
    state: State
    steps_made: int
    seconds: Number
    """Of all its steps; NaN before the first."""
    folder: str
    """Below the comparison's."""
    command: tuple[str, ...]
    problem: str = ""
    """Last lines of the log of a run that stopped before its last step."""


class Curve(Strict):
    """A metric of an arm over the steps made, over the seeds that have a value there."""

    steps_made: tuple[int, ...]
    mean: tuple[Number, ...]
    low: tuple[Number, ...]
    """Lowest of the seeds."""
    high: tuple[Number, ...]
    n: tuple[int, ...]


class Comparison(Strict):
    """Metrics are keyed by name, then by arm. Intervals are over seeds."""

    schema_version: Literal[1] = 1
    provenance: Provenance
    base: dict[str, Any]
    """Settings that all arms have unless they change them."""
    seeds: tuple[int, ...]
    window: int
    """A final value is the mean of this many last steps; held-out reward is the last one."""
    baseline: str
    """The arm that others are compared with."""
    arms: tuple[ArmRecord, ...]
    runs: tuple[RunRecord, ...]
    starts: dict[str, EstimateRecord]
    """Held-out reward before the first step, by arm."""
    finals: dict[str, dict[str, EstimateRecord]]
    """Of finished runs."""
    differences: dict[str, dict[str, EstimateRecord]]
    """Final value minus the baseline's with the same seed."""
    mended: dict[str, dict[str, EstimateRecord]]
    """Final value minus that of the arm it mends, where that is compared too and no baseline."""
    curves: dict[str, dict[str, Curve]]
    """Of all runs as far as they came."""
