"""Everything that a diagnosis does to a transformers model works where the model is not on the CPU.

A run on an H200 found what no test on a CPU had: inputs of a replay stayed behind, and so did the
noise of three planted faults.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "another_device" / "check.py"
PACKAGE = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def differences() -> dict[str, float | str]:
    """In a process of its own: the other device is there for as long as the process is."""
    done = subprocess.run(
        [sys.executable, CHECK], cwd=PACKAGE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def test_numbers_are_those_of_the_cpu(differences: dict[str, float | str]) -> None:
    assert {name: what for name, what in differences.items() if what != 0.0} == {}


def test_what_was_tried(differences: dict[str, float | str]) -> None:
    for kind, fewest in {
        "alteration": 15,
        "fault": 25,
        "replay": 1,
        "taps": 1,
        "spread": 20,
    }.items():
        assert sum(name.startswith(kind) for name in differences) >= fewest, kind
