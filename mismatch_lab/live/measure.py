"""The numbers of a step: the measures of `diagnose`, split by the age of the sampling weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.live.steps import Step
from mismatch_lab.live.watch import Seen
from mismatch_lab.measures.aggregate import EDGE, DeltaAggregate
from mismatch_lab.measures.edge import EDGE_MEASURES, evaluate_totals
from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.sums import DeltaSums, sum_rows

LAGS = 8
"""Ages of weights that a step's line has measures of, the freshest of them: a run that reuses old
answers has as many as it keeps."""


@dataclass(frozen=True)
class Measured:
    """A step in numbers."""

    values: dict[str, float]
    """`decode_train/MEASURE` as the reference trainer writes them, and those by lag."""
    seen: Seen
    row_abs_delta: FloatArray
    """float64 [R]: mean |delta| of each sequence; infinite where none of its tokens has one."""


def measure_step(step: Step, freshest_lag: int | None = None) -> Measured:
    """Every measure of the sampled tokens.

    Args:
        step: of which every sequence has sampled tokens.
        freshest_lag: sequences of at most this lag are measured apart, for `Seen`.
    """
    row_ids = np.repeat(np.arange(len(step.mask)), step.mask.sum(axis=1))
    rows = sum_rows(step.logp_infer[step.mask], step.logp_train[step.mask], row_ids)
    values = DeltaAggregate.of_rows(rows).values(EDGE)
    table = DeltaSums.from_matrix(rows.sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_row = table.abs_delta / table.tokens
    lags = step.lags
    fresh, largest = float("nan"), None
    if lags is not None and len(lags):
        values |= _by_lag(rows.sums, lags)
        largest = int(lags.max())
        if freshest_lag is not None:
            fresh = _abs_delta_mean(rows.sums[lags <= freshest_lag])[0]
    n, dropped = values[f"{EDGE}/n"], values[f"{EDGE}/n_dropped"]
    seen = Seen(
        step=step.number,
        abs_delta_mean=values[f"{EDGE}/abs_delta_mean"],
        ess=values[f"{EDGE}/ess"],
        dropped_share=dropped / (n + dropped) if n + dropped else float("nan"),
        abs_delta_max=values[f"{EDGE}/abs_delta_max"],
        learning_rate=step.learning_rate,
        largest_lag=largest,
        fresh_abs_delta_mean=fresh,
    )
    return Measured(values, seen, np.where(np.isfinite(by_row), by_row, np.inf))


def _by_lag(sums: FloatArray, lags: NDArray[np.int64]) -> dict[str, float]:
    """Mean |delta| of the sequences of each lag, with its count of tokens."""
    values = {"staleness/lag_mean": float(lags.mean()), "staleness/lag_max": float(lags.max())}
    for lag in np.unique(lags)[:LAGS].tolist():
        value, n = _abs_delta_mean(sums[lags == lag])
        values |= {f"{EDGE}/lag_{lag}/abs_delta_mean": value, f"{EDGE}/lag_{lag}/n": n}
    return values


def _abs_delta_mean(sums: FloatArray) -> tuple[float, int]:
    totals = DeltaSums.from_matrix(sums.sum(axis=0))
    found = evaluate_totals(EDGE_MEASURES["abs_delta_mean"], totals)
    return found.value, found.n


def worst_and_others(
    row_abs_delta: FloatArray, n_worst: int, n_rows: int, seed: int
) -> NDArray[np.int64]:
    """Sequences to keep, ascending: the worst, and others drawn at random.

    Args:
        row_abs_delta: float64 [R].
        n_worst: how many of the worst.
        n_rows: how many at most.
        seed: of the drawing.
    """
    order = np.argsort(-row_abs_delta, kind="stable")
    rest = np.random.default_rng(seed).permutation(order[n_worst:])[: n_rows - n_worst]
    return np.sort(np.concatenate([order[:n_worst], rest]))
