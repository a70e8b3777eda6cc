"""A probe that the fake engine is quick with, and the program."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `program` stands beside the tests

from gate_runs import made
from program import Lab, wait_for

PROBE = """
name = "sums"
title = "Short sums for the fake engine"
why = "Quick."
limits_reason = "Those of the probe quick."
[prompts]
set = "{prompts}"
count = 24
[sampling]
max_tokens = 32
"""


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 short prompts, some 400 sampled tokens."""
    folder = tmp_path_factory.mktemp("probe")
    lines = [json.dumps({"text": f"What is {i} plus {31 - i}?"}) for i in range(24)]
    (folder / "sums.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "sums.toml"
    path.write_text(PROBE.format(prompts=folder / "sums.jsonl"))
    return path


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    wait_for(lambda: not made.alive(), "the processes of this test to end")


@pytest.fixture(scope="session")
def healthy(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(probe, tmp_path_factory.mktemp("gate") / "run")


@pytest.fixture(scope="session")
def again(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another seed: other answers to the same prompts."""
    return made(probe, tmp_path_factory.mktemp("gate") / "run", seed=5)


@pytest.fixture(scope="session")
def broken(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(
        probe, tmp_path_factory.mktemp("gate") / "run", "defect=lm_head_scale", "defect_size=0.5"
    )


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "copy"))
