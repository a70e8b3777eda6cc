"""Which two captures show a side's own error in its modules.

In a run every module of the trainer and of the reference is fed what the engine's was fed. Of a
record nothing but the reference can be run: it is fed what each side's modules were fed, where that
was recorded; otherwise both are compared on their own inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mismatch_lab.captures.capture import Capture

Side = Literal["infer", "train"]
SIDES: tuple[Side, ...] = ("infer", "train")


def held_against(captures: Mapping[str, Capture], side: Side) -> tuple[str, str]:
    """Ids of the side's capture and of the reference's."""
    if side == "train" and "train_on_infer" in captures:
        return "train_on_infer", "ref_on_infer"
    own = "prefill" if side == "infer" else "train"
    fed = f"ref_on_{side}"
    return own, fed if fed in captures else "ref"


def floor_of(reference: str) -> str:
    """Id of the reference in the sides' precision, on the same inputs."""
    return f"floor{reference.removeprefix('ref')}"


def sides_seen(captures: Mapping[str, Capture]) -> tuple[Side, ...]:
    """Sides of a record whose modules can be held against the reference's."""
    return tuple(
        side
        for side in SIDES
        if all(
            name in captures and captures[name].hidden
            for own, reference in [held_against(captures, side)]
            for name in (own, reference, floor_of(reference))
        )
    )
