"""The noise floor: what this precision does to this model on these tokens, measured.

The reference is run twice, in fp32 and in the precision of the sides (for fp32 sides: in fp32 and
float64). Their difference is the error that an ideal implementation in this precision makes. A
side whose own error against the reference is of that size does what its precision does; one whose
error is several times as large does something else. (The split of delta into one error per side
against a common reference follows Fast-LLM's cross-engine evaluation.)

Each error is held against the floor twice: mean over mean, which few tokens carry, and token by
token (`measures.paired`), which shows what is wrong with all of them by little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.align import align
from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.captures.names import SECOND
from mismatch_lab.findings.edges import record
from mismatch_lab.measures import ratio_of_means
from mismatch_lab.measures.paired import typical_ratio
from mismatch_lab.measures.stats import mean_estimate
from mismatch_lab.schema import EstimateRecord, Limits, Measures, NoiseFloor, TypicalRatios

TWO_SIDES = float(np.sqrt(2.0))
"""Two independent errors of one size add up to this many times that size."""

NOT_MEASURED = EstimateRecord(value=np.nan, n=0, n_dropped=0, ci95=(np.nan, np.nan))

SMALLEST = 1e-7
"""nats; log-probs are kept in float32 and cannot differ by less in a meaningful way."""


RESOLUTION_NATS = 3e-6
"""Log-probs of different float32 programs differ by this much where nothing is wrong: a logit of 20
has a spacing of 2e-6. What differs by less on a token is equal there."""

Side = Literal["infer", "train", "decode"]


def measure_floor(
    captures: Mapping[str, Capture], edges: Mapping[str, Measures], floor_dtype: str
) -> NoiseFloor | None:
    """The floor and how many times it each side and the edge are; None without a reference."""
    if not {"ref", "floor", "decode", "train"} <= captures.keys():
        return None
    infer = "prefill" if "prefill" in captures else "decode"
    floor, rows = _abs_delta(captures, "floor", "ref")
    errors = {
        "infer": _abs_delta(captures, infer, "ref")[0],
        "train": _abs_delta(captures, "train", "ref")[0],
        "decode": _abs_delta(captures, "decode", "ref")[0],
        "edge": _abs_delta(captures, "decode", "train")[0] / TWO_SIDES,
    }
    if SECOND in captures:
        errors |= {
            "second": _abs_delta(captures, SECOND, "ref")[0],
            "decode_second": _abs_delta(captures, "decode", SECOND)[0] / TWO_SIDES,
            "second_train": _abs_delta(captures, SECOND, "train")[0] / TWO_SIDES,
        }
    least = np.maximum(floor, SMALLEST)
    means = {name: record(ratio_of_means(error, least, rows)) for name, error in errors.items()}
    typical = {
        name: record(typical_ratio(error, floor, rows, RESOLUTION_NATS))
        for name, error in errors.items()
    }
    return NoiseFloor(
        method=(
            f"mean |delta| of the reference in {floor_dtype} against the reference in "
            f"{'float64' if floor_dtype == 'float32' else 'float32'}, same tokens"
        ),
        precision=record(mean_estimate(floor, rows)),
        infer_repeat=_repeat(edges, "infer_infer"),
        train_repeat=_repeat(edges, "train_train"),
        **{f"{name}_ratio": mean for name, mean in means.items()},
        typical=TypicalRatios(**typical),
    )


def leaves_floor(floor: NoiseFloor, side: Side, limits: Limits) -> bool:
    """Whether a side's error is more than precision, on average or on the typical token."""
    ratios = {"infer": floor.infer_ratio, "train": floor.train_ratio, "decode": floor.decode_ratio}
    mean = ratios[side]
    return (mean is not None and mean.value > limits.floor_ratio) or leaves_typically(
        floor, side, limits
    )


def leaves_typically(floor: NoiseFloor, side: Side, limits: Limits) -> bool:
    """Whether its error is more than precision on the typical token."""
    if floor.typical is None:
        return False
    typical: EstimateRecord = getattr(floor.typical, side)
    return typical.ci95[0] > limits.floor_typical_ratio


def _repeat(edges: Mapping[str, Measures], edge: str) -> EstimateRecord:
    measures = edges.get(edge)
    return measures["abs_delta_mean"] if measures else NOT_MEASURED


def _abs_delta(
    captures: Mapping[str, Capture], a: str, b: str
) -> tuple[NDArray[np.float64], Int64]:
    pairs = align(captures[a], captures[b], (a, b))
    return np.abs(pairs.logp_b.astype(np.float64) - pairs.logp_a), pairs.row_ids
