"""A capture small enough to check by eye: two rows, every kind of array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.fingerprint import fingerprint_array
from mismatch_lab.schema import Manifest, Sampling

NAN = float("nan")


@pytest.fixture
def capture() -> Capture:
    """Row 0: prompt 5 6, answer 7. Row 1: prompt 8, answer 9 10."""
    rows = Rows.build([[5, 6, 7], [8, 9, 10]], [2, 1], [[False, False, True], [False, True, True]])
    topk = np.arange(6 * 2 * 2, dtype=np.int16).reshape(6, 2, 2)
    return Capture(
        rows,
        np.array([NAN, -0.5, -1.0, NAN, -1.5, -2.0], np.float32),
        np.array([2, 4]),
        np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)),
        topk,
        np.ones((6, 2, 4), np.float32),
        {"model.norm": np.ones((2, 3), np.float32), "model.norm:in": np.zeros((2, 3), np.float32)},
        {
            "lm_head.weight": fingerprint_array(np.array([[1.0, -0.5], [0.1, 2.0]], np.float32)),
            "unordered": replace(fingerprint_array(np.ones(3, np.float16)), placed=None),
        },
        {5: "a", 10: "<é>"},
    )


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        id="decode", side="infer", engine="fake", engine_version="0", model="m", dtype="float32",
        sampling=Sampling(temperature=0.7), logprob_space="processed", patched=["plugin p.py:f"],
        options={"micro_batch": 4}, host="here", packages={"numpy": "2"}, rows=2, tokens=6,
        wall_s=0.5, arrays_sha256="",
    )  # fmt: skip
