import math

import pytest

from mismatch_lab.report.numbers import count, ends, estimate_value, number, seconds, signed
from mismatch_lab.schema import EstimateRecord


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12649, "0.126"),
        (-0.5, "−0.500"),
        (2.7e-6, "2.70e−6"),
        (0.000612, "6.12e−4"),
        (0.00183, "0.00183"),
        (0.0009996, "0.00100"),  # rounds up into the next decade before the form is chosen
        (1234.5, "1,230"),
        (1.5e9, "1.50e9"),
        (0.0, "0"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
    ],
)
def test_number_has_three_significant_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_signed_marks_what_is_above_zero() -> None:
    assert (signed(0.5), signed(-0.5), signed(0.0)) == ("+0.500", "−0.500", "0")


def test_interval_has_as_many_digits_as_tell_its_ends_apart() -> None:
    assert ends(0.12, 0.13) == "[0.120, 0.130]"
    assert ends(0.99861, 0.99899) == "[0.9986, 0.9990]"
    assert ends(math.nan, 1.0) == ""


def test_no_data_is_said_and_never_0() -> None:
    nothing = EstimateRecord(value=math.nan, n=0, n_dropped=3, ci95=(math.nan, math.nan))
    undefined = EstimateRecord(value=math.nan, n=12, n_dropped=0, ci95=(math.nan, math.nan))
    assert estimate_value(nothing) == "not measured (n = 0)"
    assert estimate_value(undefined) == "undefined (n = 12)"
    assert estimate_value(None) == "not measured"


def test_seconds_and_counts() -> None:
    # 185.4 s = 3 min 5.4 s
    assert (seconds(0.42), seconds(185.4), count(12345)) == ("0.420 s", "3 min 05 s", "12,345")
