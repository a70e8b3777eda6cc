"""The table of what is measured on an edge, and the function that measures it all in one pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mismatch_lab.measures import kl, logprob, ratio
from mismatch_lab.measures.bootstrap import interval, interval_of_ratio, resample_totals
from mismatch_lab.measures.rows import AnyFloats, AnyInts, FloatArray
from mismatch_lab.measures.stats import Estimate, quantiles_by_row
from mismatch_lab.measures.sums import DeltaSums, sum_rows


@dataclass(frozen=True, slots=True)
class EdgeMeasure:
    """One measure of an edge.

    Attributes:
        description: one line with the formula.
        unit: "nats", "nats/token", or "1" for pure numbers and shares.
        per: what it averages over, hence what its `n` counts.
        formula: the measure as a function of sums, or None for a quantile.
        quantile: which quantile of |delta| it is, or None for a formula.
    """

    description: str
    unit: str
    per: Literal["token", "sequence"] = "token"
    formula: Callable[[DeltaSums], FloatArray] | None = None
    quantile: float | None = None


EDGE_MEASURES: dict[str, EdgeMeasure] = {
    "mean_delta": EdgeMeasure(
        "mean(delta), delta = logp_train - logp_infer", "nats", formula=logprob.mean_delta
    ),
    "abs_delta_mean": EdgeMeasure("mean(|delta|)", "nats", formula=logprob.abs_delta_mean),
    "abs_delta_p50": EdgeMeasure("median of |delta|", "nats", quantile=0.5),
    "abs_delta_p99": EdgeMeasure("99th percentile of |delta|", "nats", quantile=0.99),
    "abs_delta_max": EdgeMeasure("largest |delta| (no interval)", "nats", quantile=1.0),
    "mult_prob_error": EdgeMeasure("mean(exp(|delta|))", "1", formula=logprob.mult_prob_error),
    "kl_infer_train_k1": EdgeMeasure(
        "KL(infer || train), k1 = mean(-delta)", "nats/token", formula=kl.kl_infer_train_k1
    ),
    "kl_infer_train_k2": EdgeMeasure(
        "KL(infer || train), k2 = mean(delta^2 / 2)", "nats/token", formula=kl.kl_infer_train_k2
    ),
    "kl_infer_train_k3": EdgeMeasure(
        "KL(infer || train), k3 = mean(ratio - 1 - delta), ratio = exp(delta)",
        "nats/token",
        formula=kl.kl_infer_train_k3,
    ),
    "chi2_token": EdgeMeasure("mean(ratio^2) - 1", "1", formula=ratio.chi2_token),
    "ess": EdgeMeasure(
        "effective sample fraction (sum w)^2 / (n sum w^2), w = ratio", "1", formula=ratio.ess
    ),
    "seq_ratio_arithmetic": EdgeMeasure(
        "mean over sequences of exp(sum delta)", "1", "sequence", ratio.seq_ratio_arithmetic
    ),
    "seq_ratio_geometric": EdgeMeasure(
        "mean over sequences of exp(mean delta)", "1", "sequence", ratio.seq_ratio_geometric
    ),
    "ratio_outside_share": EdgeMeasure(
        "share of tokens with ratio outside [0.8, 1.25]", "1", formula=ratio.ratio_outside_share
    ),
    "pearson": EdgeMeasure(
        "Pearson correlation of logp_infer and logp_train", "1", formula=logprob.pearson
    ),
}


DECISIVE = "abs_delta_mean"
"""The measure whose interval is held against limits: of few rows it must not be too short."""


def measure_edge(
    logp_infer: AnyFloats, logp_train: AnyFloats, row_ids: AnyInts
) -> dict[str, Estimate]:
    """Every measure in `EDGE_MEASURES`, with 95 % intervals from the cluster bootstrap over rows.

    Args:
        logp_infer: float [N], nats, of tokens the engine sampled.
        logp_train: float [N], nats, of the same tokens.
        row_ids: int [N], ascending: the sequence of each token.

    Raises:
        ValueError: lengths differ, or `row_ids` does not ascend.
    """
    rows = sum_rows(logp_infer, logp_train, row_ids)
    replicates = DeltaSums.from_matrix(resample_totals(rows.sums))
    table = DeltaSums.from_matrix(rows.sums)
    totals = DeltaSums.from_matrix(rows.sums.sum(axis=0))
    n_rows = {
        "token": int(np.count_nonzero(table.tokens)),
        "sequence": int(np.count_nonzero(table.sequences)),
    }
    quantiles = [m.quantile for m in EDGE_MEASURES.values() if m.quantile is not None]
    ranked = dict(
        zip(quantiles, quantiles_by_row(rows.abs_delta, rows.starts, quantiles), strict=True)
    )
    estimates = {}
    for name, measure in EDGE_MEASURES.items():
        if measure.quantile is not None:
            estimates[name] = ranked[measure.quantile]
        else:
            drawn = evaluate(measure, replicates)
            if name == DECISIVE:
                low, high = interval_of_ratio(drawn, table.abs_delta, table.tokens)
            else:
                low, high = interval(drawn, n_rows[measure.per])
            estimates[name] = evaluate_totals(measure, totals, low, high)
    return estimates


def evaluate(measure: EdgeMeasure, sums: DeltaSums) -> FloatArray:
    """A formula measure on sums of any shape; NaN where there is no data."""
    if measure.formula is None:
        raise ValueError(f"not a function of sums: {measure.description}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return measure.formula(sums)


def evaluate_totals(
    measure: EdgeMeasure, totals: DeltaSums, low: float = np.nan, high: float = np.nan
) -> Estimate:
    """A formula measure on total sums, with its counts and an interval computed elsewhere."""
    per_token = measure.per == "token"
    n = totals.tokens if per_token else totals.sequences
    dropped = totals.dropped if per_token else totals.sequences_dropped
    return Estimate(float(evaluate(measure, totals)), int(n), int(dropped), low, high)
