"""How far two recordings of one module's output are apart.

The relative error ||a - b||_F / ||b||_F (MaxText, Polygraphy) says how much; the best-fit scale
says of what kind: a residual near 0 after scaling means that one side is a multiple of the other
(a scale missing in one implementation), a residual as large as the error means something else.
"""

from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.bootstrap import interval, resample_totals
from mismatch_lab.measures.rows import (
    AnyFloats,
    AnyInts,
    BoolArray,
    FloatArray,
    check_matrix_rows,
    position_chunks,
    row_starts,
    sum_by_row,
)
from mismatch_lab.measures.stats import Estimate


@dataclass(frozen=True)
class HiddenError:
    """Difference of `hidden` from `reference`; every number without unit.

    Attributes:
        relative_error: ||hidden - reference||_F / ||reference||_F over the positions kept.
        per_position_error: float64 [P], the same for each position; NaN where the position was
            dropped or its reference is all zero.
        cosine: of the two, each flattened over the positions kept.
        norm_ratio: ||hidden||_F / ||reference||_F.
        best_fit_scale: the c for which c * reference is nearest to hidden.
        residual_after_scale: ||hidden - c reference||_F / ||reference||_F.
    """

    relative_error: Estimate
    per_position_error: FloatArray
    cosine: float
    norm_ratio: float
    best_fit_scale: float
    residual_after_scale: float


def hidden_error(hidden: AnyFloats, reference: AnyFloats, row_ids: AnyInts) -> HiddenError:
    """Compare two recordings of one module's output, in float64.

    Args:
        hidden: float [P, D].
        reference: float [P, D], the side that errors are relative to.
        row_ids: int [P], ascending: the sequence of each position.

    Returns:
        NaN throughout with n = 0 if no position is finite on both sides. Positions with a
        non-finite entry are dropped and counted.

    Raises:
        ValueError: shapes or lengths differ, or `row_ids` does not ascend.
    """
    check_matrix_rows(row_ids, hidden=hidden, reference=reference)
    difference_sq, product, reference_sq = _squared_norms(hidden, reference)
    kept = np.isfinite(difference_sq)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_position = np.sqrt(difference_sq / np.where(reference_sq > 0, reference_sq, np.nan))
        total = _Totals(
            float(np.where(kept, difference_sq, 0.0).sum()),
            float(np.where(kept, product, 0.0).sum()),
            float(np.where(kept, reference_sq, 0.0).sum()),
        )
    return HiddenError(
        _relative_error(difference_sq, reference_sq, kept, row_ids),
        per_position,
        total.cosine(),
        total.norm_ratio(),
        total.best_fit_scale(),
        total.residual_after_scale(),
    )


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over all kept entries, with d = hidden - reference: d.d, d.reference, reference^2.

    Everything is expressed in the difference: |hidden|^2 - |reference|^2 of two nearly equal arrays
    would leave nothing but rounding.
    """

    difference_sq: float
    product: float
    reference_sq: float

    def hidden_sq(self) -> float:
        return self.difference_sq + 2 * self.product + self.reference_sq

    def cosine(self) -> float:
        scale = (self.hidden_sq() * self.reference_sq) ** 0.5 if self.hidden_sq() > 0 else 0.0
        return (self.product + self.reference_sq) / scale if scale > 0 else float("nan")

    def norm_ratio(self) -> float:
        return _root_ratio(self.hidden_sq(), self.reference_sq)

    def best_fit_scale(self) -> float:
        return 1 + self.product / self.reference_sq if self.reference_sq > 0 else float("nan")

    def residual_after_scale(self) -> float:
        if self.reference_sq == 0:
            return float("nan")
        residual_sq = self.difference_sq - self.product**2 / self.reference_sq
        return _root_ratio(residual_sq, self.reference_sq)


def _root_ratio(numerator: float, denominator: float) -> float:
    return (max(numerator, 0.0) / denominator) ** 0.5 if denominator > 0 else float("nan")


def _squared_norms(
    hidden: AnyFloats, reference: AnyFloats
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per position |d|^2, d.reference and |reference|^2: float64 [P]; NaN where not finite."""
    difference_sq, product, reference_sq = np.full((3, len(hidden)), np.nan)
    for part in position_chunks(*hidden.shape):
        base = reference[part].astype(np.float64)
        difference = hidden[part].astype(np.float64)
        finite = np.isfinite(base).all(axis=1) & np.isfinite(difference).all(axis=1)
        with np.errstate(invalid="ignore"):
            difference -= base
            for out, left, right in (
                (difference_sq, difference, difference),
                (product, difference, base),
                (reference_sq, base, base),
            ):
                out[part] = np.where(finite, np.einsum("pd,pd->p", left, right), np.nan)
    return difference_sq, product, reference_sq


def _relative_error(
    difference_sq: FloatArray, reference_sq: FloatArray, kept: BoolArray, row_ids: AnyInts
) -> Estimate:
    """The Frobenius ratio with an interval over rows."""
    starts = row_starts(row_ids)
    columns = [sum_by_row(np.where(kept, x, 0.0), starts) for x in (difference_sq, reference_sq)]
    replicates = resample_totals(np.stack(columns, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.sqrt(np.divide(columns[0].sum(), columns[1].sum())))
        errors = np.sqrt(replicates[:, 0] / replicates[:, 1])
    n = int(np.count_nonzero(kept))
    low, high = interval(errors, int(np.count_nonzero(sum_by_row(kept, starts))))
    return Estimate(value, n, len(kept) - n, low, high)
