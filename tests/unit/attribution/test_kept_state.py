"""Sampling against re-scoring, by rows."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from mismatch_lab.attribution.kept_state import decode_rows
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.schema import Manifest, OptionValue

NAN = float("nan")


def made(*answers: list[float]) -> Capture:
    """One prompt token a row, then sampled ones with these log-probs."""
    rows = Rows.build(
        [[0] * (1 + len(answer)) for answer in answers],
        [1] * len(answers),
        [[False] + [True] * len(answer) for answer in answers],
    )
    return Capture(rows, np.array([v for a in answers for v in (NAN, *a)], np.float32))


def manifest(**options: OptionValue) -> Manifest:
    return Manifest(
        id="decode", side="infer", engine="vllm", engine_version="", model="", dtype="float32",
        sampling=None, logprob_space="processed", patched=[], options=options, host="",
        packages={}, rows=2, tokens=5, wall_s=0.0, arrays_sha256="",
    )  # fmt: skip


DECODE = made([-1.0, -2.0], [-3.0])
PREFILL = made([-1.5, -2.25], [-3.0])
TRAIN = made([-1.5, -2.25], [-2.0])


def test_rows_are_split_by_their_cached_tokens() -> None:
    options: dict[str, OptionValue] = {
        "cached_prefix_tokens": "16 0", "enable_prefix_caching": True, "enforce_eager": False,
    }  # fmt: skip
    found = decode_rows(DECODE, PREFILL, TRAIN, manifest(**options), 0.1)
    # Row 0: |-1 + 1.5| and |-2 + 2.25|, mean 0.375; row 1: 0. Against the trainer:
    # (0.5 + 0.25 + 1) / 3 while sampling, (0 + 0 + 1) / 3 re-scored.
    assert (found.cached, found.uncached) == (0.375, 0.0)
    assert (found.n_cached, found.n_uncached) == (1, 1)
    assert found.decode_train == pytest.approx(1.75 / 3)
    assert found.prefill_train == pytest.approx(1 / 3)
    assert found.prefix_caching
    assert found.graphs


@pytest.mark.parametrize("recorded", [{}, {"cached_prefix_tokens": "16 0 16"}])
def test_without_a_count_for_each_row_none_is_cached(recorded: dict[str, OptionValue]) -> None:
    found = decode_rows(DECODE, PREFILL, TRAIN, manifest(**recorded), 0.1)
    assert isnan(found.cached)
    assert found.uncached == pytest.approx(0.25)
    assert not found.graphs
    assert replace(found, cached=0.0).n_cached == 0
