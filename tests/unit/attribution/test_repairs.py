"""Which repair takes a cause away on the trainer itself."""

from __future__ import annotations

import numpy as np
import pytest
from builders import answered, run_of, side

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.repairs import STOCK, error_of, repair_for, resync

PLUGGED = run_of(train=side("train", plugin="file.py:plant"))


def test_dropout_is_disabled() -> None:
    repair = repair_for("dropout-active", run_of())
    assert repair is not None
    assert repair.spec.no_dropout
    assert repair.label == "dropout disabled"


@pytest.mark.parametrize("cause", STOCK)
def test_modules_are_put_back_where_a_plugin_may_have_changed_them(cause: str) -> None:
    repair = repair_for(cause, PLUGGED)
    assert repair is not None
    assert repair.spec.stock == STOCK[cause]
    assert repair.spec.plugin == "file.py:plant"
    assert repair.spec.side == "train"
    assert repair_for(cause, run_of()) is None  # a stock trainer has nothing to put back


def test_other_causes_have_no_repair() -> None:
    assert set(STOCK) <= set(CAUSES)
    for cause in set(CAUSES) - set(STOCK) - {"dropout-active"}:
        assert repair_for(cause, PLUGGED) is None


def test_tensors_are_loaded_again() -> None:
    repair = resync(side("infer"), ("a", "b", "c"))
    assert repair.spec.resync == ("a", "b", "c")
    assert repair.label == "a, b and 1 more loaded again"
    assert resync(side("infer"), ("a",)).label == "a loaded again"


def test_the_error_that_is_left_is_of_sampled_tokens() -> None:
    # The prompt counts for nothing, nor does what is no number: |-1 + 1.5| alone.
    sound = np.array([-9.0, -1.5, np.nan])
    assert error_of(answered([-1.0, -2.0]), sound) == pytest.approx(0.5)
