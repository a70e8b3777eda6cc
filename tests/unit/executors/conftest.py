"""What workers that stay are asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.schema import Manifest

ROWS = Rows.build([[65, 66, 67], [70, 71]], [1, 1], [[False, True, True], [False, True]])


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a capture of two short rows."""
    folder = tmp_path_factory.mktemp("captures")
    manifest = Manifest(
        id="decode", side="infer", engine="fake", engine_version="", model="fake",
        dtype="float32", sampling=None, logprob_space="processed", patched=[], host="",
        packages={}, rows=2, tokens=5, wall_s=0.0, arrays_sha256="",
    )  # fmt: skip
    save_capture(folder / "decode", Capture(ROWS, np.full(5, -1.0, np.float32)), manifest)
    return folder
