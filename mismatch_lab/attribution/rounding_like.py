"""Whether a module's error looks like rounding: nearly everywhere, and with no direction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.module_error import module_pair

EVERYWHERE, FAIR = 0.3, 0.05
"""At least this share of a module's outputs is wrong by this share of the typical error, where it
is rounding; a clamp or a wrong row touches few."""

DIRECTED = 0.5
"""Cosine between error and output above which the output is longer or shorter, not rounded."""


def looks_like_rounding(suspect: str, captures: Mapping[str, Capture], module: str) -> bool:
    """True also where outputs were not recorded: nothing speaks against it then.

    Args:
        suspect: capture of the suspect on equal inputs.
        captures: of the run.
        module: whose outputs are compared with `ref_on_infer`.
    """
    wrong, right = (captures.get(name) for name in (suspect, "ref_on_infer"))
    if wrong is None or right is None:
        return True
    left, expected = module_pair(wrong, right, module)
    if left is None or expected is None:
        return True
    rows = np.isfinite(left).all(axis=1) & np.isfinite(expected).all(axis=1)
    error = left[rows].astype(np.float64) - expected[rows]
    # A head's log-probs all move with their normaliser.
    error -= np.median(error, axis=1, keepdims=True)
    size = np.linalg.norm(error)
    if not size:
        return True
    touched = np.mean(np.abs(error) > FAIR * size / np.sqrt(error.size))
    along = np.sum(error * expected[rows]) / (size * np.linalg.norm(expected[rows]))
    return bool(touched >= EVERYWHERE and abs(along) <= DIRECTED)
