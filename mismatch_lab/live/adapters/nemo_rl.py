"""NeMo-RL: a monitor beside its logger, by one line.

    from mismatch_lab.live.adapters.nemo_rl import watch

    watch(logger, MismatchMonitor("mismatch", model=checkpoint, dtype="bfloat16"))

Wraps `Logger.log_batched_dict_as_jsonl` of the instance. The trainers call it once a step, in the
driver, for `train_data_step{N}.jsonl`, with both sides' log-probs; what else it is called for is
let through. Where `sample_loss_mask` has dropped the worst sequences already, those are observed
all the same: the mask of generated tokens is used, and not that one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mismatch_lab.errors import InputError
from mismatch_lab.live.adapters import say_untested
from mismatch_lab.live.adapters.rows import one_by_one
from mismatch_lab.live.background import on_host
from mismatch_lab.live.monitor import MismatchMonitor
from mismatch_lab.live.steps import Observed

FILE = re.compile(r"train_data_step(\d+)\.jsonl$")
ENGINE, TRAINER = "generation_logprobs", "prev_logprobs"
"""Columns of the log-probs of both sides, [B, S], of the token at the same place."""


def watch(
    logger: Any, monitor: MismatchMonitor, *, temperature: float = 1.0, top_p: float = 1.0
) -> None:
    """Have every batch that is logged for training observed.

    Args:
        logger: NeMo-RL's `Logger`.
        monitor: of the driver.
        temperature: of the sampling, which the batch does not say.
        top_p: of the sampling.
    """
    say_untested("nemo-rl")
    original = logger.log_batched_dict_as_jsonl

    def logged(to_log: Any, filename: str) -> Any:
        named = FILE.search(filename)
        if named is not None:
            step = int(named[1])
            monitor.observe_made(lambda: observed(to_log, step, temperature, top_p))
        return original(to_log, filename)

    logger.log_batched_dict_as_jsonl = logged


def observed(
    batch: Mapping[str, Any], step: int, temperature: float = 1.0, top_p: float = 1.0
) -> Observed:
    """A batch as it is logged.

    Args:
        batch: token_ids, token_loss_mask and log-probs [B, S], input_lengths [B].
        step: of the file's name.
        temperature: of the sampling.
        top_p: of the sampling.

    Raises:
        InputError: a column is not there, or the trainer's log-probs are zeros, which NeMo-RL
            writes under `force_on_policy_ratio` in their place.
    """
    columns = ("token_ids", "token_loss_mask", "input_lengths", ENGINE, TRAINER)
    missing = [name for name in columns if name not in batch]
    if missing:
        raise InputError(f"NeMo-RL's batch has no {', '.join(missing)}.")
    ids = np.stack(one_by_one(batch["token_ids"]))
    mask = np.stack(one_by_one(batch["token_loss_mask"])).astype(bool)
    train = np.stack(one_by_one(batch[TRAINER]))
    if mask.any() and not train[mask].any():
        raise InputError(
            f"{TRAINER} are zeros: the trainer's log-probs were not computed.",
            "NeMo-RL leaves them out under loss_fn.force_on_policy_ratio.",
        )
    lengths = on_host(batch["input_lengths"]).reshape(-1)
    return Observed(
        step=step,
        token_ids=ids,
        mask=mask,
        logp_infer=np.stack(one_by_one(batch[ENGINE])),
        logp_train=train,
        attention_mask=np.arange(ids.shape[1]) < lengths[:, None],
        temperature=temperature,
        top_p=top_p,
    )
