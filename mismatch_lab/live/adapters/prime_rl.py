"""prime-rl: a monitor around the loss, by its option for one.

    # my_loss.py; [trainer.loss] then has type = "custom" and import_path = "my_loss.loss"
    from mismatch_lab.live.adapters.prime_rl import observed

    loss = observed(ppo_clip_loss, MismatchMonitor("mismatch", model=checkpoint, dtype="bfloat16"))

The loss is called with one sequence: both sides' log-probs and a mask, no token ids. So
`SEQUENCES` of them make one observation, which is measured and watched; an alarm keeps no captures.
prime-rl's `enable_token_export` writes those, and its files are read by `diagnose` once they are
arrays or captures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np

from mismatch_lab.live.adapters import say_untested
from mismatch_lab.live.adapters.rows import joined, one_by_one
from mismatch_lab.live.monitor import MismatchMonitor
from mismatch_lab.live.steps import Observed

SIDES = ("inference_logprobs", "trainer_logprobs")
Sequence = tuple[Any, ...]
"""Mask and both sides' log-probs of a sequence, tensors [n]."""
SEQUENCES = 64
"""Of this rank in an observation: the loss does not say where a step ends."""


def observed(
    loss: Callable[..., Any], monitor: MismatchMonitor, *, sequences: int = SEQUENCES
) -> Callable[..., Any]:
    """A loss that does what `loss` does, and has its sequences observed.

    Args:
        loss: fn(inputs, **kwargs), as prime-rl's CustomLossConfig calls it.
        monitor: of this rank; its steps are observations of so many sequences.
        sequences: in one.
    """
    say_untested("prime-rl")
    held: list[Sequence] = []
    made = 0

    def collect(inputs: Any) -> None:
        nonlocal made, held
        # Left where they are: a copy from a device for each sequence would hold up the loss.
        held.append(tuple(getattr(inputs, name).detach() for name in ("loss_mask", *SIDES)))
        if len(held) >= sequences:
            monitor.observe_made(partial(_step, made, held))
            made, held = made + 1, []

    @wraps(loss)
    def watched(inputs: Any, *args: Any, **named: Any) -> Any:
        try:
            collect(inputs)
        except Exception as error:
            monitor.failed(error)
        return loss(inputs, *args, **named)

    return watched


def _step(number: int, rows: list[Sequence]) -> Observed:
    masks, infer, train = (one_by_one(list(column)) for column in zip(*rows, strict=True))
    nothing = [np.zeros(0, np.int64)] * len(rows)
    arrays = joined(nothing, [np.zeros(len(one), np.int64) for one in masks], masks, infer, train)
    return Observed(
        step=number,
        token_ids=None,
        mask=arrays["mask"],
        logp_infer=arrays["logp_infer"],
        logp_train=arrays["logp_train"],
    )
