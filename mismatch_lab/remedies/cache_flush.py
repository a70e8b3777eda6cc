"""Cache flush: what the engine cached of the old weights is forgotten after each transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from mismatch_lab.trainer.config import TrainConfig


def configure(config: TrainConfig) -> TrainConfig:
    """The run with its cache flushed."""
    rollout = config.rollout.model_copy(update={"flush_cache": True})
    return config.model_copy(update={"rollout": rollout})


REMEDY = Remedy(
    id="cache-flush",
    about="the engine's prefix cache is reset after every transfer of weights",
    formula="reset_prefix_cache() between transfer and sampling",
    source="molt and vLLM: cached prefixes across updates raise the KL 2 to 3 times",
    removes=("stale-prefix-cache",),
    configure=configure,
)
