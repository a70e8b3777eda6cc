"""slime: a monitor by its option for a function that sees the rollout before training.

    MISMATCH_LAB_RECORD=mismatch python train.py ... --get-mismatch-metrics \
        --rollout-data-postprocess-path mismatch_lab.live.adapters.slime.observe

slime calls it on each rank with that rank's samples. The trainer's log-probs are among them where a
pass of its own computed them, which `--get-mismatch-metrics` asks for. Miles, and slime before
2026-08, call it with their arguments alone: there is nothing to observe, and it says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from mismatch_lab.errors import InputError
from mismatch_lab.live.adapters import say_untested
from mismatch_lab.live.adapters.from_environment import monitor_from_environment
from mismatch_lab.live.adapters.rows import joined, one_by_one
from mismatch_lab.live.steps import Observed

ENGINE, TRAINER = "rollout_log_probs", "log_probs"
"""Columns of the log-probs of both sides: a list of samples, each [n] of its response."""


def observe(args: Any, rollout_id: int | None = None, rollout_data: Any = None) -> None:
    """What `--rollout-data-postprocess-path` names; changes nothing and raises nothing.

    Args:
        args: slime's.
        rollout_id: the step.
        rollout_data: this rank's columns, each a list of samples.
    """
    try:
        _say_once()
        if rollout_id is None or rollout_data is None:
            raise InputError(
                "This version hands its hook no data.", "--dump-details writes it to files."
            )
        if not _has_log_probs():
            return
        model = str(getattr(args, "hf_checkpoint", None) or "CHECKPOINT")
        monitor = monitor_from_environment("slime", _rank(), model)
        monitor.observe_made(lambda: observed(args, rollout_id, rollout_data))
    except Exception as error:
        _shout(f"mismatch-lab does not watch this run: {type(error).__name__}: {error}")


def observed(args: Any, rollout_id: int, rollout_data: Mapping[str, Any]) -> Observed:
    """A rank's samples as rows.

    Args:
        args: slime's: rollout_temperature and rollout_top_p.
        rollout_id: the step.
        rollout_data: tokens, response_lengths, loss_masks and log-probs, a list of samples each.

    Raises:
        InputError: a side's log-probs are not there.
    """
    for column in (ENGINE, TRAINER):
        if rollout_data.get(column) is None:
            raise InputError(
                f"slime's rollout has no {column}.",
                "--get-mismatch-metrics has the trainer's computed in a pass of their own.",
            )
    tokens = one_by_one(rollout_data["tokens"])
    lengths = [int(n) for n in rollout_data["response_lengths"]]
    arrays: dict[str, Any] = joined(
        [row[: len(row) - n] for row, n in zip(tokens, lengths, strict=True)],
        [row[len(row) - n :] for row, n in zip(tokens, lengths, strict=True)],
        one_by_one(rollout_data["loss_masks"]),
        one_by_one(rollout_data[ENGINE]),
        one_by_one(rollout_data[TRAINER]),
    )
    return Observed(
        step=rollout_id,
        temperature=float(getattr(args, "rollout_temperature", 1.0)),
        top_p=float(getattr(args, "rollout_top_p", 1.0)),
        **arrays,
    )


def _has_log_probs() -> bool:
    """Whether this rank is the one of its tensor-parallel group, of the last pipeline stage, that
    has them; where Megatron is not there, every rank has its own.

    Raises:
        InputError: context parallelism, under which a rank has parts of them.
    """
    try:
        from megatron.core import mpu
    except ImportError:
        return True
    if mpu.get_context_parallel_world_size() > 1:
        raise InputError(
            "Under context parallelism a rank has parts of the log-probs.",
            "--dump-details puts them together and writes them to files.",
        )
    return bool(mpu.get_tensor_model_parallel_rank() == 0 and mpu.is_pipeline_last_stage())


def _rank() -> int:
    import torch

    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if ready else 0


@cache
def _say_once() -> None:
    say_untested("slime")


@cache
def _shout(text: str) -> None:
    """Once for each thing that is wrong."""
    warnings.warn(text, stacklevel=3)
