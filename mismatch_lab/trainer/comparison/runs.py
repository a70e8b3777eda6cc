"""The runs of a comparison: one folder for each arm and seed, and what can be read from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.trainer.comparison.arms import arm_config
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.metrics import FILE, read_metrics
from mismatch_lab.trainer.run import RECORD

LOG = "train.log"
LOG_LINES = 6
"""Last lines of a log that tell why a run stopped."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        """Of its folder, and in the terminal."""
        return self.folder.name

    def metrics(self) -> list[dict[str, Any]]:
        """The steps made so far."""
        return read_metrics(self.folder) if (self.folder / FILE).is_file() else []

    def finished(self) -> bool:
        """Whether all steps have been made, and held-out problems asked after the last."""
        rows = self.metrics()
        return bool(rows) and rows[-1]["step"] == self.config.steps

    def problem(self) -> str:
        """Why it stopped, as far as its log says."""
        log = self.folder / LOG
        if not log.is_file():
            return "not begun"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-LOG_LINES:])


def plan_runs(base: TrainConfig, arms: tuple[str, ...], seeds: int, out: Path) -> list[Run]:
    """Every arm with every seed from the base's on; all arms of a seed before the next seed.

    Raises:
        InputError: an arm's faults and fixes cannot be had, or a folder holds another run.
    """
    runs = []
    for seed in range(base.seed, base.seed + seeds):
        for arm in arms:
            config = arm_config(base, arm, seed)
            runs.append(Run(arm, seed, config, out / "runs" / f"{arm}-seed{seed}"))
    for run in runs:
        _check_folder(run)
    return runs


def arguments(config: TrainConfig, out: Path) -> tuple[str, ...]:
    """The words after `mismatch-lab` that make this run; with `--resume` they go on with it."""
    words = ["train", config.task, "--seed", str(config.seed)]
    default = TrainConfig().model_dump(mode="json")
    own = {"task", "seed", "faults", "fixes"}
    for name, value in config.model_dump(mode="json").items():
        if name in own or value == default[name]:
            continue
        if not isinstance(default[name], dict):
            words += ["--set", f"{name}={_as_text(value)}"]
            continue
        for key, part in value.items():
            if part != default[name][key]:
                words += ["--set", f"{name}.{key}={_as_text(part)}"]
    for option, names in (("--fault", config.faults), ("--fix", config.fixes)):
        for name in names:
            words += [option, name]
    return (*words, "--out", str(out))


def _as_text(value: Any) -> str:
    """As `--set` reads it: plain text where that is not JSON of something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


def _check_folder(run: Run) -> None:
    """Steps and evaluations too are to be the same: arms are compared at the same moments."""
    record = run.folder / RECORD
    if not record.is_file():
        return
    before = json.loads(record.read_text(encoding="utf-8"))["config"]
    now = run.config.model_dump(mode="json")
    differing = sorted(name for name in now if before.get(name) != now[name])
    if differing:
        raise InputError(
            f"{run.folder} holds a run with other settings: {', '.join(differing)}.",
            "Compare with the same ones, or name another --out.",
        )
