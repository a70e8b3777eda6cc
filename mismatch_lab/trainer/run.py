"""A run folder: `train.json`, `metrics.jsonl`, `checkpoints/`, `weights/`, `logs/`.

What is resumed must be the run that was begun.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mismatch_lab.checkpoints.config import EMBEDDED
from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.findings.next_command import resuming
from mismatch_lab.remedies import load_fixes
from mismatch_lab.report.text import visible
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.metrics import FILE, check_tensorboard, read_metrics
from mismatch_lab.trainer.planting import check_faults, plan_run
from mismatch_lab.trainer.tasks import TASKS, load_task
from mismatch_lab.trainer.watcher import QUIET, Watcher

RECORD = "train.json"
SCHEMA_VERSION = 1


def run_training(
    config: TrainConfig, out: Path | None, resume: bool, command: tuple[str, ...]
) -> Path:
    """Train in a new folder, or go on in one; returns it.

    Raises:
        InputError: a wrong name, a folder that is in use, or another run's folder.
    """
    check_installed(config)
    check(config)
    if int(os.environ.get("RANK", 0)) != 0:
        return _train(config, None, QUIET)
    folder = _folder(config, out, resume)
    with _recorded(config, folder, command), _watcher(config, folder) as watcher:
        return _train(config, folder, watcher)


def _train(config: TrainConfig, folder: Path | None, watcher: Watcher) -> Path:
    """The folder is rank 0's to choose, the others learn it here."""
    from transformers.utils import logging as transformers_logging

    from mismatch_lab.trainer import ranks
    from mismatch_lab.trainer.loop import train

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    ranks.join()
    try:
        chosen_by_first = (folder, _model(config, watcher)) if folder else None
        folder, model = ranks.share(chosen_by_first)
        train(config.model_copy(update={"model": model}), folder, watcher)
    finally:
        ranks.leave()
    return folder


def _watcher(config: TrainConfig, folder: Path) -> Watcher:
    """A dashboard where somebody can see it, else a line a step."""
    from rich.console import Console

    console = Console(highlight=False)
    # FORCE_COLOR makes a terminal of anything for rich, also of the pipe to `--compare`.
    if console.is_interactive and sys.stdout.isatty():
        from mismatch_lab.trainer.dashboard import Dashboard

        return Dashboard(config, console, _steps_made(folder))
    from mismatch_lab.trainer.console import StepPrinter

    return StepPrinter(config.steps)


def check_installed(config: TrainConfig) -> None:
    """Raise MissingDependencyError for what training needs and is not there, before it begins."""
    needed = {"torch": "train", "transformers": "train"}
    if config.rollout.engine == "vllm":
        needed["vllm"] = "vllm"
    for package, extra in needed.items():
        if find_spec(package) is None:
            raise MissingDependencyError(
                f"Training needs {package}, which is not installed.",
                f"pip install 'mismatch-lab[{extra}]'; on a CPU `make env` in a checkout of the "
                "repository. `mismatch-lab doctor` says what is there.",
            )


def check(config: TrainConfig) -> None:
    """Refuse what can be refused before anything heavy is imported."""
    plan, fixes = plan_run(config), load_fixes(config.fixes)
    check_faults(config)
    reach_in = [fix.id for fix in fixes.chosen if fix.engine == "vllm in one process"]
    reach_in += (plan.engine_fault or ())[:1]
    if reach_in and plan.config.rollout.args.get("tensor_parallel_size", 1) != 1:
        raise InputError(
            f"{reach_in[0]} reaches into the engine's model, which is in several processes.",
            "Leave rollout.args.tensor_parallel_size at 1 for it.",
        )
    if config.tensorboard:
        check_tensorboard()
    if config.rollout.urls:
        _check_servers(config.rollout.urls)
    if config.task not in TASKS:
        load_task(config.task)
    needs_vllm = [fix.id for fix in fixes.chosen if fix.engine != "any"]
    if config.rollout.engine == "hf" and needs_vllm:
        raise InputError(f"Fix {needs_vllm[0]} needs vLLM as the engine.")
    fixes.check(config)


def _check_servers(urls: tuple[str, ...]) -> None:
    from mismatch_lab.trainer.rollout_client import server_url, token

    token()
    for url in urls:
        server_url(url)


def _model(config: TrainConfig, watcher: Watcher) -> str:
    """The checkpoint to start on: a task that the embedded model cannot do is taught first."""
    if config.model != EMBEDDED or not load_task(config.task).warm_up:
        return config.model
    from mismatch_lab.trainer.tasks.warm_up import warm_checkpoint

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mismatch-lab"
    cache.mkdir(parents=True, exist_ok=True)
    watcher.phase("warm-up")
    return str(warm_checkpoint(config.task, cache))


def _folder(config: TrainConfig, out: Path | None, resume: bool) -> Path:
    if out is None:
        if resume:
            raise InputError("--resume needs --out: the folder of the run.")
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"train-{config.task}-{stamp}"
    from mismatch_lab.trainer.run import check_same_run

    if (out / RECORD).exists():
        if not resume:
            raise InputError(
                f"{out} holds a run already.", "Add --resume to go on with it, or name another."
            )
        check_same_run(out / RECORD, config.model_dump(mode="json"))
        if not _has_checkpoint(out):
            print(f"{visible(str(out))} has no checkpoint yet: it starts again at step 0.")
    elif resume:
        raise InputError(
            f"{out} holds no run that could go on: it has no {RECORD}.",
            "Leave --resume out to start one there, or name the folder of the run.",
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/step-*"))


@contextmanager
def _recorded(config: TrainConfig, folder: Path, command: tuple[str, ...]) -> Iterator[None]:
    """The run's record while and after it runs, and a last line that says where the run is.

    A run that ends before its first step leaves none behind: the same command can be given again.
    """
    new = not (folder / RECORD).exists()
    _record(config, folder, command)
    where = f"Run folder: {visible(str(folder))}"
    try:
        yield
    except BaseException:
        if new and not _steps_made(folder) and not _has_checkpoint(folder):
            (folder / RECORD).unlink(missing_ok=True)
        else:
            anew = "" if _has_checkpoint(folder) else ", from step 0: there is no checkpoint yet"
            print(
                f"{where}\nto go on{anew}:\n{resuming(command, visible(str(folder)))}", flush=True
            )
        raise
    print(where, flush=True)


def _steps_made(folder: Path) -> list[dict[str, Any]]:
    """Lines of its metrics."""
    return read_metrics(folder) if (folder / FILE).is_file() else []


def _record(config: TrainConfig, folder: Path, command: tuple[str, ...]) -> None:
    from mismatch_lab.engines.provenance import gather

    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": config.model_dump(mode="json"),
        "provenance": gather(list(command)).model_dump(mode="json"),
    }
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2), encoding="utf-8")
    partial.replace(folder / RECORD)


MAY_DIFFER = ("steps", "eval_every", "checkpoint_every", "tensorboard")
"""Settings that a resumed run may change: they do not change what a step computes."""
PLACES = ("engines", "devices", "urls")
"""Those of `rollout`: where engines are."""


def check_same_run(record: Path, config: dict[str, Any]) -> None:
    """Raise InputError where a folder's record is of a run with other settings.

    Args:
        record: the run's `train.json`.
        config: the settings of the run that is to go on in it.
    """
    before: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["config"]
    held, asked = _that_count(before), _that_count(config)
    differing = sorted(name for name in asked if held.get(name) != asked[name])
    if differing:
        raise InputError(
            f"{record.parent} holds a run with other settings: {', '.join(differing)}.",
            "Resume with the same ones, or name another --out.",
        )


def _that_count(config: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in MAY_DIFFER}
    rollout = {k: v for k, v in config.get("rollout", {}).items() if k not in PLACES}
    return kept | {"rollout": rollout}
