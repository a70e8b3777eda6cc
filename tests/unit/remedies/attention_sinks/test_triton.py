"""The two Triton kernels in Triton's interpreter, against the torch operations they replace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mismatch_lab


def test_fused_is_what_torch_says() -> None:
    pytest.importorskip("triton")
    root = Path(mismatch_lab.__file__).parents[1]
    # Triton chooses its interpreter when it is imported.
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_worker.py"))],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    errors = json.loads(result.stdout)
    assert len(errors) == 4
    for case, found in errors.items():
        # The interpreter, unlike a GPU, cuts digits off where it should round to bfloat16.
        limit = 0.01 if "bfloat16" in case else 1e-6
        assert max(found.values()) < limit, (case, found)
