"""`diagnose --probe quick` on the embedded model, real vLLM and FSDP2: 90 s on 2 cores.

Of that our own share, all but engine starts, generation and forwards, is at most 20 %. Run as a
script, or with pytest (`-m benchmark`, naming this file).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

WALL_LIMIT_S = 90.0
OWN_SHARE_LIMIT = 0.20


def measure(out: Path) -> tuple[float, float]:
    """(wall seconds, share of them that is neither engine start, generation nor forward)."""
    command = [sys.executable, "-m", "mismatch_lab.cli", "diagnose", "--probe", "quick"]
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(out), "--json"], check=True, capture_output=True)
    wall_s = time.perf_counter() - began
    timings_s = json.loads((out / "findings.json").read_text())["timings_s"]
    theirs_s = sum(v for k, v in timings_s.items() if k.startswith(("start.", "capture.")))
    own_share = 1 - theirs_s / wall_s
    print(
        f"diagnose --probe quick: {wall_s:.0f} s, {wall_s / WALL_LIMIT_S:.2f} of the limit; "
        f"own share {own_share:.0%}, {own_share / OWN_SHARE_LIMIT:.2f} of the limit"
    )
    return wall_s, own_share


@pytest.mark.benchmark
@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_quick_diagnosis_within_the_limits(tmp_path: Path) -> None:
    wall_s, own_share = measure(tmp_path / "run")
    assert wall_s <= WALL_LIMIT_S
    assert own_share <= OWN_SHARE_LIMIT


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch) / "run")
