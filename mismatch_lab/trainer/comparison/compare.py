"""`mismatch-lab train TASK --compare ARMS --seeds N`: train what is missing, then report."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mismatch_lab.engines.provenance import gather
from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.schema import write_json
from mismatch_lab.trainer.comparison.arms import parse_arms
from mismatch_lab.trainer.comparison.console import Lines, print_comparison
from mismatch_lab.trainer.comparison.duration import Remaining, before
from mismatch_lab.trainer.comparison.launch import launch
from mismatch_lab.trainer.comparison.page import write_page
from mismatch_lab.trainer.comparison.runs import Run, plan_runs
from mismatch_lab.trainer.comparison.summary import summarise
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.run import check, check_installed

JSON_FILE = "comparison.json"


def compare(
    base: TrainConfig,
    arms: str,
    seeds: int,
    out: Path | None,
    workers: int = 1,
    command: tuple[str, ...] = (),
) -> Path:
    """Train every arm with every seed, each in its own folder, and write the report.

    Runs that are finished in `out` are not made again; others go on from their checkpoints.

    Args:
        base: settings of all arms; its seed is the first.
        arms: names separated by commas.
        seeds: how many, from the base's on.
        out: the comparison's folder; by default a new one in runs/.
        workers: runs at once.
        command: of this call, for the record.

    Returns:
        The folder.

    Raises:
        InputError: an unknown arm, a folder of other runs, or a start under torchrun.
        MismatchLabError: a run failed; the report of the others is written all the same.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--compare cannot be started by torchrun: it starts one process a run.")
    folder = out or _new_folder(base)
    runs = plan_runs(base, parse_arms(arms), seeds, folder)
    check_installed(base)
    for run in runs:
        check(run.config)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    missing = [run for run in runs if not run.finished()]
    console.print(
        f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before; in {folder}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if missing:
        console.print(before(runs, workers), highlight=False, markup=False, soft_wrap=True)
    launch(missing, workers, Lines(console, Remaining(missing, workers)))
    found = summarise(base, runs, gather(list(command)))
    write_json(folder / JSON_FILE, found)
    write_page(found, folder)
    print_comparison(console, found, folder)
    _complain(runs, folder)
    return folder


def _new_folder(base: TrainConfig) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"compare-{base.task}-{stamp}"


def _complain(runs: list[Run], folder: Path) -> None:
    failed = [run.name for run in runs if not run.finished()]
    if failed:
        raise MismatchLabError(
            f"{len(failed)} of {len(runs)} runs did not finish: {', '.join(failed)}.",
            f"Their logs are {folder}/runs/*/train.log; the same command with --out {folder} "
            "tries them again.",
        )
