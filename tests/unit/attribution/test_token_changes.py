"""What becomes of log-probs on their way, on rows of three and two tokens."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NAN, rows_of

from mismatch_lab.attribution.token_changes import TOKEN_CHANGES

ROWS = rows_of(3, 2)
LOGP = np.array([NAN, -1.0, -2.0, NAN, -3.0])


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (1.0, [-1.0, -2.0, NAN, -3.0, NAN]),
        (-1.0, [NAN, NAN, -1.0, NAN, NAN]),
        (2.0, [-2.0, NAN, NAN, NAN, NAN]),
    ],
)
def test_a_shift_stays_within_its_row(value: float, arrives: list[float]) -> None:
    np.testing.assert_array_equal(TOKEN_CHANGES["shift"](LOGP, ROWS, value), arrives)


def test_the_last_token_of_each_row_carries_the_constant() -> None:
    changed = TOKEN_CHANGES["terminal_constant"](LOGP, ROWS, 0.25)
    np.testing.assert_array_equal(changed, [NAN, -1.0, 0.25, NAN, 0.25])
    assert LOGP[2] == -2.0  # the sound ones are left as they are


@pytest.mark.parametrize(
    ("name", "value", "arrives"),
    [
        # Between 1 and 2 bfloat16 has steps of 1/128 = 0.0078125, float16 of 1/1024.
        ("through_bfloat16", 0.0, -1.0078125),
        ("through_float16", 0.0, -1.0048828125),
        ("decimals", 1.0, -1.0),
        ("decimals", 3.0, -1.005),
    ],
)
def test_rounding(name: str, value: float, arrives: float) -> None:
    logp = np.array([NAN, -1.005, -2.0, NAN, -3.0])
    np.testing.assert_array_equal(
        TOKEN_CHANGES[name](logp, ROWS, value), [NAN, arrives, -2.0, NAN, -3.0]
    )
