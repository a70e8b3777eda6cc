"""What is put right on a side itself, and what is left then."""

from __future__ import annotations

import numpy as np
import pytest
from builders import answered, run_of, side

from mismatch_lab.attribution.repairs import error_of, repair_for, resync

PLUGGED = run_of(train=side("train", plugin="file.py:plant"))


def test_dropout_is_disabled() -> None:
    repair = repair_for("dropout-active", run_of())
    assert repair is not None
    assert repair.spec.no_dropout
    assert repair.label == "dropout disabled"


def test_modules_are_put_back_where_a_plugin_may_have_changed_them() -> None:
    repair = repair_for("expert-layout", PLUGGED)
    assert repair is not None
    assert repair.spec.stock == ("*.mlp", "config")
    assert repair.spec.plugin == "file.py:plant"
    assert repair.spec.side == "train"
    assert repair_for("expert-layout", run_of()) is None  # a stock trainer has nothing to put back


def test_other_causes_have_no_repair() -> None:
    assert repair_for("shift-by-one", PLUGGED) is None
    assert repair_for("numerics-floor", PLUGGED) is None


def test_tensors_are_loaded_again() -> None:
    repair = resync(side("infer"), ("a", "b", "c"))
    assert repair.spec.resync == ("a", "b", "c")
    assert repair.label == "a, b and 1 more loaded again"
    assert resync(side("infer"), ("a",)).label == "a loaded again"


def test_the_error_that_is_left_is_of_sampled_tokens() -> None:
    # The prompt counts for nothing, nor does what is no number: |-1 + 1.5| alone.
    sound = np.array([-9.0, -1.5, np.nan])
    assert error_of(answered([-1.0, -2.0]), sound) == pytest.approx(0.5)
