"""Differences in words, the same on the page and in the terminal."""

from __future__ import annotations

import math

from mismatch_lab.report.numbers import ends, number, signed
from mismatch_lab.schema import EstimateRecord

TONES = {"higher": "good", "lower": "bad", "not told apart": "fair", "no interval": "fair"}
GLYPHS = {"higher": "▲", "lower": "▼", "not told apart": "≈", "no interval": "?"}


def against(difference: EstimateRecord) -> str:
    """`higher`, `lower`, `not told apart`; `no interval` from fewer than two pairs of seeds."""
    low, high = difference.ci95
    if math.isnan(low):
        return "no interval"
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "not told apart"


def cell(estimate: EstimateRecord | None, gap: str = " ", sign: bool = False) -> str:
    """`0.747 [0.700, 0.794], n = 3`; a dash where nothing was measured."""
    if estimate is None or estimate.n == 0:
        return "–"
    value = signed(estimate.value) if sign else number(estimate.value)
    return f"{value}{gap}{ends(*estimate.ci95)}".rstrip() + f", n = {estimate.n}"
