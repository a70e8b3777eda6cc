"""The trainer's config gives one windowed layer another window."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import has_window, last_window, windowed_layers
from mismatch_lab.faults.base import Fault, RunOptions


def plant(model: Any, strength: float) -> None:
    """The last windowed layer sees `strength` keys more than its window."""
    import torch

    layer = model.model.layers[windowed_layers(model.config.to_dict())[-1]]
    window = model.config.sliding_window

    def widen(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        if mask is None or mask.dtype == torch.bool:
            raise ValueError("this fault edits an additive mask: run the trainer eager")
        queries, keys = mask.shape[-2:]
        age = torch.arange(queries)[:, None] + (keys - queries) - torch.arange(keys)
        # Padding is on the right here: no key that a window hides is padding.
        seen = (age >= window) & (age < window + strength)
        return args, kwargs | {"attention_mask": mask.masked_fill(seen.to(mask.device), 0.0)}

    layer.self_attn.register_forward_pre_hook(widen, with_kwargs=True)


def options(strength: float) -> RunOptions:
    """Eager attention: its masks are numbers that can be edited."""
    del strength
    return RunOptions(trainer_args={"attn_implementation": "eager"})


FAULT = Fault(
    id="window-ignored-layer",
    about="sliding window too wide in one layer of the trainer",
    causes=("sliding-window",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1024, "medium": 16, "slight": 1},
    applies=has_window,
    expected_location=last_window,
    options=options,
    plant=plant,
)
