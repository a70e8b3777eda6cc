"""Prompts were cached before the update, and the cache was not flushed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import old_parameters, with_tensors
from mismatch_lab.faults.modules import wrap_forward

ALONG = ("input_ids", "position_ids")
"""Inputs with one value for each token that runs; the mask also covers what is cached."""


def update(model: Any, before: Path) -> None:
    """transformers' generate: all of the prompt but its last token runs on the old weights."""
    old = old_parameters(model, before)

    def wrap(forward: Any) -> Any:
        def forward_from_cache(*args: Any, **kwargs: Any) -> Any:
            cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
            if cache is None or ids is None or ids.shape[1] == 1:
                return forward(*args, **kwargs)
            with with_tensors(model, old):
                forward(*args, **(kwargs | _cut(kwargs, slice(None, -1), ("attention_mask",))))
            return forward(*args, **(kwargs | _cut(kwargs, slice(-1, None), ())))

        return forward_from_cache

    wrap_forward(model, wrap)


def _cut(kwargs: dict[str, Any], part: slice, more: tuple[str, ...]) -> dict[str, Any]:
    names = [name for name in (*ALONG, *more) if kwargs.get(name) is not None]
    return {name: kwargs[name][:, part] for name in names}


FAULT = Fault(
    id="stale-prefix-cache",
    about="cached prompts of the engine date from before the update",
    causes=("stale-prefix-cache",),
    family="cache",
    side="sync",
    kind="update",
    severities={"plain": 0.3, "medium": 0.1, "slight": 0.02},
    engines=("hf",),
    update=update,
)
