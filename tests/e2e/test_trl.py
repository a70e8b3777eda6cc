"""TRL's own GRPOTrainer, watched: the sinks that its trainer drops are noticed, kept and named.

Runs examples/hooks/trl_grpo.py as a user does, in a process of its own; the engine is transformers'
`generate` on a model of its own. Where TRL is not installed, `pip install trl` beside the rest.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "hooks" / "trl_grpo.py"

pytestmark = [pytest.mark.trl, pytest.mark.slow, pytest.mark.timeout(600)]


def trained(out: Path, *options: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Lines of measures, alarms, and what the program said."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = []
    for name in ("metrics", "alarms"):
        path = out / "mismatch" / f"{name}-rank-0.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found.append([json.loads(line) for line in text.splitlines()])
    return found[0], found[1], done.stdout + done.stderr


def test_a_healthy_run_of_trl_is_left_alone(tmp_path: Path) -> None:
    lines, alarms, said = trained(tmp_path, "--steps", "3")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(line["decode_train/n"] > 256 for line in lines)
    # Both compute in bfloat16, by other kernels: not equal, and far from the limit of 0.1.
    assert all(0 < line["decode_train/abs_delta_mean"] < 0.01 for line in lines)
    assert alarms == []
    assert "alarms: [], steps left out: 0" in said


def test_sinks_that_trls_trainer_drops_are_named_by_the_command_it_prints(tmp_path: Path) -> None:
    lines, alarms, said = trained(tmp_path, "--steps", "3", "--drop-sinks")
    assert all(line["decode_train/abs_delta_mean"] > 0.1 for line in lines)
    (alarm,) = alarms
    assert (alarm["kind"], alarm["step"], alarm["since"]) == ("above-limit", 2, 0)
    assert alarm["command"] in said
    words = shlex.split(alarm["command"])[1:]
    out = ["--out", str(tmp_path / "diagnosis"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", *words, *out],
        capture_output=True,
        text=True,
        check=True,
    )
    verdict = json.loads(done.stdout)["verdict"]
    cause = verdict["causes"][0]
    assert verdict["status"] == "mismatch"
    assert (cause["id"], cause["side"]) == ("attention-sinks-dropped", "train")
    assert cause["location"] == "model.layers.0.self_attn"
