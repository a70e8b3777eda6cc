"""The trainer numbers the answer's positions from too small a number."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import rotary

FROM = 24
"""First position that is wrong: beyond the template, before most answers end."""


def plant(model: Any, strength: float) -> None:
    """Positions from FROM on are `strength` too small."""

    def stalled(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        ids = given - int(strength) * (given >= FROM).to(given.dtype)
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": ids}
        return (args[0], ids, *args[2:]), kwargs

    for embedding in rotary(model):
        embedding.register_forward_pre_hook(stalled, with_kwargs=True)


FAULT = Fault(
    id="positions-stall",
    about="positions of the trainer repeat themselves in the middle of a row",
    causes=(UNLISTED,),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 16, "medium": 4, "slight": 1},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
