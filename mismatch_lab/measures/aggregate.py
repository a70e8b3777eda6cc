"""Running state that merges, for measuring inside a training loop and across its ranks.

`merge(of(a), of(b))` equals `of(a + b)`: sums and counts are kept, never means of means. What a
state of fixed size cannot hold are intervals, so those are NaN here; and quantiles of |delta| are
read from a log-spaced histogram, within 1.2 % of the exact ones.
"""

from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.edge import EDGE_MEASURES, evaluate_totals
from mismatch_lab.measures.histogram import LogHistogram
from mismatch_lab.measures.rows import AnyFloats, AnyInts, FloatArray
from mismatch_lab.measures.stats import Estimate
from mismatch_lab.measures.sums import DeltaSums, EdgeRows, sum_rows

EDGE = "decode_train"
"""The edge that a training loop sees: what the engine returned while it sampled, against the
trainer's scoring pass."""


@dataclass(frozen=True, slots=True)
class MeanAggregate:
    """A mean of a stream; `n_dropped` counts values that were not finite."""

    total: float = 0.0
    n: int = 0
    n_dropped: int = 0

    @classmethod
    def of(cls, values: AnyFloats) -> "MeanAggregate":
        """Aggregate an array of any shape."""
        finite = values[np.isfinite(values)]
        return cls(float(finite.sum(dtype=np.float64)), finite.size, values.size - finite.size)

    def merge(self, other: "MeanAggregate") -> "MeanAggregate":
        """The aggregate of both inputs together."""
        return MeanAggregate(
            self.total + other.total, self.n + other.n, self.n_dropped + other.n_dropped
        )

    @property
    def value(self) -> float:
        """The mean; NaN if no value was finite."""
        return self.total / self.n if self.n else float("nan")


@dataclass(frozen=True)
class DeltaAggregate:
    """All that the measures of an edge need of a stream of whole sequences.

    Attributes:
        totals: float64 [N_SUMS], the sums named by `DeltaSums`.
        abs_delta_max: nats; -inf before the first token, so that merging takes the maximum.
        abs_delta: histogram of |delta|.
    """

    totals: FloatArray
    abs_delta_max: float
    abs_delta: LogHistogram

    @classmethod
    def of(cls, logp_infer: AnyFloats, logp_train: AnyFloats, row_ids: AnyInts) -> "DeltaAggregate":
        """Aggregate a batch of whole sequences.

        Args:
            logp_infer: float [N], nats, of tokens the engine sampled.
            logp_train: float [N], nats, of the same tokens.
            row_ids: int [N], ascending. A sequence split over two batches would count as two.

        Raises:
            ValueError: lengths differ or `row_ids` does not ascend.
        """
        return cls.of_rows(sum_rows(logp_infer, logp_train, row_ids))

    @classmethod
    def of_rows(cls, rows: EdgeRows) -> "DeltaAggregate":
        """Aggregate the sums of whole sequences, where something else needs those too."""
        finite = rows.abs_delta[~np.isnan(rows.abs_delta)]
        largest = float(finite.max()) if finite.size else -np.inf
        return cls(rows.sums.sum(axis=0), largest, LogHistogram.of(finite))

    def merge(self, other: "DeltaAggregate") -> "DeltaAggregate":
        """The aggregate of both inputs together."""
        return DeltaAggregate(
            self.totals + other.totals,
            max(self.abs_delta_max, other.abs_delta_max),
            self.abs_delta.merge(other.abs_delta),
        )

    def estimates(self) -> dict[str, Estimate]:
        """Every measure in `EDGE_MEASURES`, without intervals."""
        sums = DeltaSums.from_matrix(self.totals)
        estimates = {}
        for name, measure in EDGE_MEASURES.items():
            if measure.quantile is None:
                estimates[name] = evaluate_totals(measure, sums)
            else:
                value = self._quantile(measure.quantile)
                n, n_dropped = int(sums.tokens), int(sums.dropped)
                estimates[name] = Estimate(value, n, n_dropped, np.nan, np.nan)
        return estimates

    def values(self, edge: str = EDGE) -> dict[str, float]:
        """Every measure as `EDGE/NAME`, with the counts of the tokens: what a step's line holds."""
        found = self.estimates()
        per_token = found["abs_delta_mean"]
        named = {f"{edge}/{name}": estimate.value for name, estimate in found.items()}
        return named | {f"{edge}/n": per_token.n, f"{edge}/n_dropped": per_token.n_dropped}

    def _quantile(self, probability: float) -> float:
        """From the histogram, but never above the maximum, which is known exactly."""
        if not np.isfinite(self.abs_delta_max):
            return float("nan")
        if probability == 1:
            return self.abs_delta_max
        return min(self.abs_delta.quantile(probability), self.abs_delta_max)
