"""Memory and time of GPT-OSS's experts on a CUDA GPU: `pytest -m gpu` this file.

Also runnable as a script where pytest is missing, with a folder for the tables:
`python tests/gpu/test_expert_memory_gpu.py FOLDER [--dry-run]`. It takes less than two minutes;
everything is measured once, and written even where a check fails.
"""

from __future__ import annotations

import sys
import traceback
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from mismatch_lab.remedies.grouped_experts.bench.__main__ import measure_all
from mismatch_lab.remedies.grouped_experts.bench.accuracy import Accuracy
from mismatch_lab.remedies.grouped_experts.bench.measure import Row
from mismatch_lab.remedies.grouped_experts.interface import NAME

try:
    import pytest

    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.timeout(300),
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    ]
except ImportError:  # a GPU machine without an index
    pass

SCRIPT = __name__ == "__main__"
DRY_RUN = SCRIPT and "--dry-run" in sys.argv
LONGEST = 24576
FORMULA = 0.03
"""Router and rounding of the allocator, relative to what the experts keep."""


@cache
def measured() -> tuple[list[Accuracy], list[Row]]:
    given = [word for word in sys.argv[1:] if not word.startswith("-")] if SCRIPT else []
    where = Path(given[0]) if given else Path(mkdtemp())
    print(f"tables in {where}")
    return measure_all(where, dry_run=DRY_RUN)


def test_as_near_to_float64_as_eager() -> None:
    found = {row.way: row.errors for row in measured()[0]}
    ours, eager = found[NAME], found["eager"]
    assert ours is not None
    assert eager is not None
    for name, error in ours.items():
        assert error <= 1.5 * eager[name], (name, error, eager[name])


def test_24k_tokens_fit_in_both_modes_and_nothing_is_kept() -> None:
    rows = [row for row in measured()[1] if row.way == NAME and row.tokens == LONGEST]
    assert len(rows) == 4
    assert not [row.note for row in rows if row.note]
    # 135 MiB an activation of the layer; backward of grouped_mm needs 4863 MiB.
    assert all(row.kept_mib < 135 for row in rows if row.backward), rows


def test_the_formula_says_what_is_kept() -> None:
    rows = [row for row in measured()[1] if row.formula_mib > 100]
    assert {row.way for row in rows} >= {"eager", "grouped_mm"}
    for row in rows:
        assert abs(row.kept_mib / row.formula_mib - 1) < FORMULA, row


def test_a_copy_of_the_weights_for_every_slot_does_not_fit() -> None:
    rows = [r for r in measured()[1] if r.way == "batched_mm" and r.tokens == LONGEST]
    assert rows
    assert all("OutOfMemory" in row.note for row in rows), rows


TESTS = (
    test_as_near_to_float64_as_eager,
    test_24k_tokens_fit_in_both_modes_and_nothing_is_kept,
    test_the_formula_says_what_is_kept,
    test_a_copy_of_the_weights_for_every_slot_does_not_fit,
)


def main() -> int:
    """Run as a script: measure, then check; the number of checks that failed."""
    if DRY_RUN:
        measured()
        return 0
    if not torch.cuda.is_available():
        print("skipped: no CUDA GPU")
        return 0
    failed = 0
    for test in TESTS:
        try:
            test()
            print(f"ok {test.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED {test.__name__}\n{traceback.format_exc()[-2000:]}")
    return failed


if SCRIPT:
    sys.exit(min(main(), 1))
