"""FSDP2 over two ranks (gloo) trains as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mismatch_lab.trainer.metrics import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("train_on_ranks.py")


def run(launcher: list[str], out: Path) -> None:
    out.mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    run([], tmp_path / "one")
    run(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], tmp_path / "two")
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one[:3], two[:3], strict=True):
        # Sums are taken in another order, so nothing is equal to the bit.
        for name in ("reward", "tokens", "loss", "grad_norm", "entropy", "kl_ref"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), (a["step"], name)
    assert one[2]["grad_norm"] > 0.01
    assert (tmp_path / "two" / "checkpoints" / "step-000003" / "state.json").is_file()
