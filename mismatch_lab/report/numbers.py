"""Numbers as people read them: three significant digits, never a 0 that was not measured."""

from __future__ import annotations

import math

from mismatch_lab.schema import EstimateRecord

MINUS = "\u2212"


def number(value: float, digits: int = 3) -> str:
    """`0.126`, `6.12e−4`, `1,234`, `∞`; a NaN is a dash, since alone it has no n to show."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if -3 <= exponent < 6:
        text = f"{rounded:,.{max(0, digits - 1 - exponent)}f}"
    else:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        text = f"{mantissa}e{int(power)}"
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with a plus sign before what is above 0."""
    return ("+" if value > 0 else "") + number(value, digits)


def count(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 05 s`."""
    if math.isnan(value):
        return "–"
    if value < 60:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def estimate_value(estimate: EstimateRecord | None) -> str:
    """The value, or in words that there is none."""
    if estimate is None:
        return "not measured"
    if math.isnan(estimate.value):
        return f"{'not measured' if estimate.n == 0 else 'undefined'} (n = {count(estimate.n)})"
    return number(estimate.value)


def interval(estimate: EstimateRecord | None) -> str:
    """`[0.120, 0.132]`; empty where the data gave none."""
    return "" if estimate is None else ends(*estimate.ci95)


def ends(low: float, high: float) -> str:
    """Both ends with as many digits as it takes to tell them apart; empty if either is NaN."""
    if math.isnan(low) or math.isnan(high):
        return ""
    digits = next((d for d in (3, 4, 5) if number(low, d) != number(high, d)), 3)
    return f"[{number(low, digits)}, {number(high, digits)}]"


def percent(share: float) -> str:
    """A share in [0, 1] as `12.5 %`."""
    return "–" if math.isnan(share) else f"{number(100 * share)} %"
