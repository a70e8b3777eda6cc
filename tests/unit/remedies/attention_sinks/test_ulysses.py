"""Sequences split over two processes, against the definition in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mismatch_lab


def test_two_ranks_agree_with_the_definition(tmp_path: Path) -> None:
    worker = str(Path(__file__).with_name("ulysses_worker.py"))
    root = str(Path(mismatch_lab.__file__).parents[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, worker, str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], [error for _, error in outputs]
    for output, _ in outputs:
        for errors in json.loads(output):
            assert set(errors) == {"out", "dq", "dk", "dv", "dsinks"}
            assert max(errors.values()) < 1e-13, errors
