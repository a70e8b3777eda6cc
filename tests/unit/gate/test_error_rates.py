"""The study of error rates: its arithmetic, and that what is published keeps what is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.gate.error_rates import (
    HEALTHY,
    MOST_ERRORS,
    NAME,
    ROWS,
    SCENARIOS,
    TWICE,
    Sequences,
    Trial,
    rate,
)

PUBLISHED = Path(__file__).parents[3] / "reports" / "published"


def test_an_interval_passes_and_fails_by_the_size_of_the_error() -> None:
    trial = Trial("limit", "as recorded", "model", 8, 100, low=0.8, high=1.5)
    sizes = (0.5, 0.7, 1.0, 1.3)
    assert [trial.passes(size) for size in sizes] == [True, False, False, False]  # 1.5 x 0.5 < 1
    assert [trial.fails(size) for size in sizes] == [False, False, False, True]  # 0.8 x 1.3 > 1
    assert rate([trial, trial], 0.5, Trial.passes) == 1


def test_rows_are_drawn_whole_and_count_as_often_as_they_are_drawn() -> None:
    run = Sequences(
        "model", np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), np.array([0, 1, 0]), n_rows=2
    )
    drawn = run.drawn(np.array([1, 0, 1]))
    assert drawn.values.tolist() == [3, 1, 2, 3]
    assert drawn.row_ids.tolist() == [0, 1, 1, 2]
    assert drawn.positions.tolist() == [0, 0, 1, 0]


def test_scenarios_leave_the_mean_where_it_was() -> None:
    rng = np.random.default_rng(0)
    run = Sequences("m", np.ones(200_000), np.arange(200_000) // 4, np.zeros(200_000), 50_000)
    for made in SCENARIOS.values():
        assert made(run, rng).mean() == pytest.approx(1, abs=0.02)


def test_published_rates_are_within_what_is_claimed() -> None:
    rows = json.loads((PUBLISHED / f"{NAME}.json").read_text())
    assert len({(r["kind"], r["scenario"], r["n_rows"]) for r in rows}) == (
        2 * len(SCENARIOS) * len(ROWS)
    )
    healthy = [r["fails"] for r in rows if r["size"] == HEALTHY]
    twice = [r["passes"] for r in rows if r["size"] == TWICE]
    assert max(healthy) <= 0.0012 <= MOST_ERRORS
    assert max(twice) <= 0.0097 <= MOST_ERRORS
    decided = [r for r in rows if r["n_rows"] == 32 and r["scenario"] == "as recorded"]
    assert min(r["passes"] for r in decided if r["size"] == HEALTHY) > 0.9
    assert min(r["fails"] for r in decided if r["size"] == TWICE) > 0.9
