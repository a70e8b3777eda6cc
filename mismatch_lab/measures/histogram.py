"""Log-spaced histogram of non-negative values: quantiles of a stream in fixed memory, mergeable.

A bin is 10^(1/100) wide, 2.3 %, so a quantile read from it (the geometric middle of its bin) is
within 1.2 % of the exact one. It spans 1e-9 to 1e3; smaller values, zero among them, share one bin
that reads as 0, and larger ones share one that reads as 1e3.
"""

from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.rows import AnyFloats, IntArray

BINS_PER_DECADE = 100
LOWEST = 1e-9
HIGHEST = 1e3
RELATIVE_RESOLUTION = 10 ** (0.5 / BINS_PER_DECADE) - 1
_N_BINS = 12 * BINS_PER_DECADE  # twelve decades from LOWEST to HIGHEST


@dataclass(frozen=True)
class LogHistogram:
    """Counts int64 [_N_BINS + 2]: below LOWEST, the bins, from HIGHEST on."""

    counts: IntArray

    @classmethod
    def of(cls, values: AnyFloats) -> "LogHistogram":
        """Count finite, non-negative values [N]; others are the caller's to drop.

        Raises:
            ValueError: a value is negative or not finite.
        """
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError("a log histogram takes finite, non-negative values only")
        scaled = np.clip(values.astype(np.float64) / LOWEST, 0.1, 10.0 * HIGHEST / LOWEST)
        bins = np.floor(np.log10(scaled) * BINS_PER_DECADE).astype(np.int64) + 1
        return cls(np.bincount(np.clip(bins, 0, _N_BINS + 1), minlength=_N_BINS + 2))

    def merge(self, other: "LogHistogram") -> "LogHistogram":
        """The histogram of both inputs together."""
        return LogHistogram(self.counts + other.counts)

    def quantile(self, probability: float) -> float:
        """Value at rank floor((n - 1) p), to the stated resolution; NaN if nothing was counted."""
        cumulative = np.cumsum(self.counts)
        n = int(cumulative[-1])
        if n == 0:
            return float("nan")
        rank = int((n - 1) * probability)
        found = int(np.searchsorted(cumulative, rank, side="right"))
        if found == 0:
            return 0.0
        if found == _N_BINS + 1:
            return HIGHEST
        return float(LOWEST * 10 ** ((found - 0.5) / BINS_PER_DECADE))
