"""A run folder: `train.json`, `metrics.jsonl`, `checkpoints/`, `weights/`, `logs/`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mismatch_lab.engines.checkpoint import EMBEDDED
from mismatch_lab.errors import InputError
from mismatch_lab.remedies import chosen
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.metrics import check_tensorboard
from mismatch_lab.trainer.planting import plan_run
from mismatch_lab.trainer.tasks import TASKS, load_task

RECORD = "train.json"
SCHEMA_VERSION = 1


def run_training(
    config: TrainConfig, out: Path | None, resume: bool, command: tuple[str, ...]
) -> Path:
    """Train in a new folder, or go on in one; returns it.

    Raises:
        InputError: a wrong name, a folder that is in use, or another run's folder.
    """
    check(config)
    folder = _folder(config, out, resume)
    lead = int(os.environ.get("RANK", 0)) == 0
    if lead:
        _record(config, folder, command)
    from transformers.utils import logging as transformers_logging

    from mismatch_lab.trainer import ranks
    from mismatch_lab.trainer.console import StepPrinter
    from mismatch_lab.trainer.loop import train

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    ranks.join()
    try:
        config = config.model_copy(update={"model": ranks.share(_model(config) if lead else None)})
        train(config, folder, StepPrinter(config.steps) if lead else lambda _step, _values: None)
    finally:
        ranks.leave()
    return folder


def check(config: TrainConfig) -> None:
    """Refuse what can be refused before anything heavy is imported."""
    plan, fixes = plan_run(config), chosen(config.fixes)
    reach_in = [fix.id for fix in fixes if fix.engine == "vllm in one process"]
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
    needs_vllm = [fix.id for fix in fixes if fix.engine != "any"]
    if config.rollout.engine == "hf" and needs_vllm:
        raise InputError(f"Fix {needs_vllm[0]} needs vLLM as the engine.")
    if config.optim.checkpoint_activations and "routing-replay" in config.fixes:
        raise InputError(
            "Layers that are computed again in backward would not replay the engine's routing.",
            "Leave out optim.checkpoint_activations or the fix routing-replay.",
        )


def _check_servers(urls: tuple[str, ...]) -> None:
    from mismatch_lab.trainer.rollout_client import check_url, token

    token()
    for url in urls:
        check_url(url)


def _model(config: TrainConfig) -> str:
    """The checkpoint to start on: a task that the embedded model cannot do is taught first."""
    if config.model != EMBEDDED or not load_task(config.task).warm_up:
        return config.model
    from mismatch_lab.trainer.tasks.warm_up import warm_checkpoint

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mismatch-lab"
    cache.mkdir(parents=True, exist_ok=True)
    return str(warm_checkpoint(config.task, cache))


def _folder(config: TrainConfig, out: Path | None, resume: bool) -> Path:
    if out is None:
        if resume:
            raise InputError("--resume needs --out: the folder of the run.")
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"train-{config.task}-{stamp}"
    from mismatch_lab.trainer.checkpoint_folder import check_same_run

    if (out / RECORD).exists():
        if not resume:
            raise InputError(
                f"{out} holds a run already.", "Add --resume to go on with it, or name another."
            )
        check_same_run(out / RECORD, config.model_dump(mode="json"))
    out.mkdir(parents=True, exist_ok=True)
    return out


def _record(config: TrainConfig, folder: Path, command: tuple[str, ...]) -> None:
    from mismatch_lab.provenance import gather

    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": config.model_dump(mode="json"),
        "provenance": gather(list(command)).model_dump(mode="json"),
    }
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2), encoding="utf-8")
    partial.replace(folder / RECORD)
