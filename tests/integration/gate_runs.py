"""Runs of the fake engine for the gate, and ways to tamper with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.gate.baseline import baseline_of, write_baseline
from mismatch_lab.gate.command import GateRequest, gate
from mismatch_lab.gate.judge import GateResult
from mismatch_lab.gate.record import read_record
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run

STATUS = '[[status]]\nname = "s"\nreason = "r"\nallowed = ["match", "numerics"]\n'
BASELINE = """
[[baseline]]
name = "b"
reason = "r"
edge = "decode_train"
measure = "{measure}"
increase = 1.0
"""
NO_NUMBER = float("nan")
LIMIT = """
[[limit]]
name = "l"
reason = "r"
edge = "decode_train"
measure = "abs_delta_mean"
below = 100.0
"""


def made(probe: Path, out: Path, *trainer_args: str, seed: int = 0) -> Path:
    request = DiagnoseRequest(
        "fake", str(probe), "fake", "fake", "bfloat16", seed=seed, trainer_args=trainer_args,
    )  # fmt: skip
    diagnose(build_run(request), out, False, lambda _event: None, budget_s=0)
    return out


def judged(run: Path, rules: str = "", tmp_path: Path | None = None, **more: Any) -> GateResult:
    """By the default rules, or by these."""
    path = None
    if rules:
        assert tmp_path is not None
        path = tmp_path / "rules.toml"
        path.write_text(rules)
    return gate(GateRequest(paths=(run,), rules=path, **more))[0]


def edited(run: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((run / file).read_text())
    change(content)
    (run / file).write_text(json.dumps(content))


def recaptured(run: Path, name: str, change: Callable[[Capture], Capture]) -> None:
    """A capture changed and written anew, its checksum with it."""
    folder = run / "captures" / name
    capture, manifest = load_capture(folder)
    shutil.rmtree(folder)
    save_capture(folder, change(capture), manifest)


def baseline(run: Path, path: Path) -> Path:
    write_baseline(path, baseline_of(read_record(run)))
    return path
