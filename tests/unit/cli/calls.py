"""A call of the command line and what came of it, and a capture that it can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.schema import Manifest

FAKE = ("diagnose", "fake", "--engine", "fake", "--trainer", "fake")
ROWS, SAMPLED = 8, 40


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


def refused(outcome: Outcome, *said: str) -> None:
    """Exit code 2, the reasons on standard error, and nothing else."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "defect of mismatch-lab" not in outcome.err
    assert all(part in outcome.err for part in said), outcome.err


def save(
    folder: Path,
    shift: float = 0.0,
    token: int | None = None,
    space: str = "raw",
    first_token: int = 0,
    last: float | None = None,
) -> Path:
    """A capture of 8 rows of one prompt token and 40 sampled ones.

    Args:
        folder: where to.
        shift: added to every log-prob.
        token: what row 2 has at position 7 in place of its own id.
        space: of the log-probs.
        first_token: where ids begin to count.
        last: log-prob of the last token of every row, in place of its own.
    """
    ids = first_token + np.arange(ROWS * (SAMPLED + 1)).reshape(ROWS, -1)
    if token is not None:
        ids[2, 7] = token
    rows = Rows.build(ids.tolist(), [1] * ROWS, [[False] + [True] * SAMPLED] * ROWS)
    logp = -1.0 - np.tile(np.linspace(0, 1, SAMPLED + 1), ROWS) + shift
    logp[rows.row_offsets[:-1]] = np.nan
    if last is not None:
        logp[rows.row_offsets[1:] - 1] = last
    manifest = Manifest.model_validate(
        {
            "id": folder.name, "side": "infer", "engine": "fake", "engine_version": "", "model": "",
            "dtype": "float32", "sampling": None, "logprob_space": space, "patched": [],
            "host": "", "packages": {}, "rows": ROWS, "tokens": rows.n_tokens, "wall_s": 0.0,
            "arrays_sha256": "",
        }
    )  # fmt: skip
    save_capture(folder, Capture(rows, logp.astype(np.float32)), manifest)
    return folder
