"""verl: a monitor without a line of the user's code.

    MISMATCH_LAB_RECORD=mismatch python -m verl.trainer.main_ppo ...

verl loads every entry point of the group `verl.plugins` in each of its processes, and so imports
this module. Where the variable names a folder, `calculate_debug_metrics` is replaced by a function
that has the step observed and then calls it: verl's trainers call it once a step, with the
log-probs of both sides, before the update. What it is not given, the trainer that calls it has: its
settings, its step, and in v1 the prompts, in the transfer queue. verl reports an error of a plugin
at level debug, so this one speaks for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import wraps
from typing import Any

import numpy as np

from mismatch_lab.errors import InputError
from mismatch_lab.live.adapters import say_untested
from mismatch_lab.live.adapters.from_environment import folder_asked, monitor_from_environment
from mismatch_lab.live.adapters.rows import Array, joined, one_by_one
from mismatch_lab.live.steps import Observed

ENGINE, TRAINER = "rollout_log_probs", "old_log_probs"
"""Fields of the log-probs of both sides, [B, R] as `responses`."""


def watched(original: Any) -> Any:
    """Around verl's `calculate_debug_metrics(data)`: what it returns is not changed."""
    failed: list[Exception] = []

    @wraps(original)
    def metrics(data: Any) -> Any:
        caller = sys._getframe(1).f_locals  # a trainer's method: `self` and `batch`
        if not failed:
            try:
                observe(data, caller)
            except Exception as error:
                failed.append(error)
                shout(error)
        return original(data)

    return metrics


def observe(data: Any, caller: Mapping[str, Any]) -> None:
    """Have a step observed.

    Args:
        data: verl's DataProto.
        caller: the names in the method that computes the metrics.

    Raises:
        InputError: the trainer is not there, or a variable is wrong.
    """
    trainer: Any = caller.get("self")
    if not hasattr(trainer, "global_steps"):
        raise InputError("calculate_debug_metrics was not called by a trainer of verl.")
    settings = trainer.config.actor_rollout_ref
    model = str(settings.model.path)
    monitor_from_environment("verl", 0, model).observe_made(
        lambda: observed(data, caller["batch"], int(trainer.global_steps), settings.rollout)
    )


def observed(data: Any, batch: Any, step: int, rollout: Any) -> Observed:
    """A batch as rows of prompt and response.

    Args:
        data: DataProto with responses, response_mask and log-probs [B, R].
        batch: the trainer's: keys of the transfer queue in v1, otherwise the same DataProto.
        step: of the trainer.
        rollout: settings of the sampling.
    """
    held = data.batch
    parts = {"mask": "response_mask", "logp_infer": ENGINE, "logp_train": TRAINER}
    rows = {name: one_by_one(held[field]) for name, field in parts.items()}
    prompts = _padded_prompts(held) if "prompts" in held else _queued_prompts(batch)
    arrays: dict[str, Any] = joined(prompts, one_by_one(held["responses"]), **rows)
    return Observed(
        step=step,
        temperature=float(rollout.get("temperature", 1.0)),
        top_p=float(rollout.get("top_p", 1.0)),
        logprobs="raw" if "raw" in str(rollout.get("logprobs_mode", "")) else "processed",
        **arrays,
    )


def _padded_prompts(held: Any) -> list[Array]:
    """[B, P], padded on the left, of which attention_mask [B, P + R] says what is padding."""
    rows = zip(one_by_one(held["prompts"]), one_by_one(held["attention_mask"]), strict=True)
    return [row[mask[: len(row)].astype(np.bool_)] for row, mask in rows]


def _queued_prompts(batch: Any) -> list[Array]:
    import transfer_queue

    found = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts"]
    )
    return one_by_one(found["prompts"])


def shout(error: Exception) -> None:
    """On stderr, which Ray brings to the driver; verl itself would say nothing."""
    told = f"{type(error).__name__}: {error}"
    print(f"mismatch-lab does not watch this run of verl: {told}", file=sys.stderr, flush=True)


def activate() -> None:
    """Put the hook in, or say why not."""
    try:
        import verl.utils.debug.metrics as metrics

        say_untested("verl")
        metrics.calculate_debug_metrics = watched(metrics.calculate_debug_metrics)
        print(
            f"mismatch-lab watches verl and writes to {folder_asked()}, once a step has log-probs "
            "of both sides (rollout.calculate_log_probs=True, and no bypass_mode).",
            file=sys.stderr,
            flush=True,
        )
    except Exception as error:
        shout(error)


if folder_asked() is not None and "verl" in sys.modules:
    activate()
