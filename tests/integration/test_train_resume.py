"""A training that was killed goes on to the same numbers as one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("train_and_die.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("resume")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["run"]: [_without_time(step) for step in line["metrics"]] for line in lines}


def _without_time(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if not name.startswith("seconds/")}


def test_the_whole_run_trains(runs: dict[str, list[dict[str, Any]]]) -> None:
    whole = runs["whole"]
    assert [step["step"] for step in whole] == [0, 1, 2, 3, 4]
    *whole, last = whole
    assert set(last) == {"step", *(name for name in whole[0] if name.startswith("heldout/"))}
    # Learning rate 1e-3 moves the policy: the reference is left behind.
    assert whole[0]["kl_ref"] == pytest.approx(0.0, abs=1e-9)
    assert whole[3]["kl_ref"] > 1e-4
    # Float32, transformers on both sides: sampling with a cache and scoring without agree.
    assert all(step["decode_train/abs_delta_mean"] < 1e-5 for step in whole)
    assert all(step["sync/stale"] == 0 and step["sync/restarted"] == 0 for step in whole)
    assert {step["step"] for step in whole if "heldout/reward" in step} == {0, 2}


@pytest.mark.parametrize("moment", ["mid-step", "mid-checkpoint"])
def test_a_killed_run_goes_on_to_the_same_metrics(
    runs: dict[str, list[dict[str, Any]]], moment: str
) -> None:
    assert runs[moment] == runs["whole"]


def test_an_engine_that_lags_goes_on_with_the_weights_it_was_to_get(
    runs: dict[str, list[dict[str, Any]]],
) -> None:
    whole = runs["lag"]
    # After the first update the engine has it, there being no older one; then it stays behind.
    assert whole[1]["decode_train/abs_delta_mean"] < 1e-5
    assert whole[2]["decode_train/abs_delta_mean"] > 1e-4
    assert runs["lag-resumed"] == whole
