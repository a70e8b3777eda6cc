"""The arms of a comparison: what each changes of a healthy run. To add one: a row in `ARMS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mismatch_lab.errors import InputError, nearest
from mismatch_lab.trainer.config import TrainConfig, read_config


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Faults planted, fixes applied and settings changed, all by their names."""

    about: str
    faults: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted names of `TrainConfig`."""
    mends: str = ""
    """The arm that this one is, but for its fixes."""


HEALTHY = "healthy"

ARMS: dict[str, Arm] = {
    HEALTHY: Arm(about="nothing planted, nothing fixed"),
    "broken": Arm(
        about="the trainer's attention kernel drops the sinks",
        faults=("sinks-dropped",),
    ),
    "broken-is": Arm(
        about="sinks dropped, with truncated importance weights of whole sequences",
        faults=("sinks-dropped",),
        fixes=("rollout-correction",),
        settings={"correction.kind": "truncate", "correction.level": "sequence"},
        mends="broken",
    ),
    "fixed": Arm(
        about="the kernel without sinks is replaced by the one that honours them",
        faults=("sinks-dropped",),
        fixes=("attention-sinks",),
        mends="broken",
    ),
    "two-pass": Arm(
        about="the gradient pass picks other experts than the scoring pass where they nearly tie",
        faults=("two-pass-training",),
    ),
    "two-pass-on-policy-ratio": Arm(
        about="the same, with a ratio of 1 in the first update on a batch",
        faults=("two-pass-training",),
        fixes=("on-policy-ratio",),
        mends="two-pass",
    ),
    "bf16": Arm(
        about="both sides compute in bfloat16",
        settings={"dtype": "bfloat16"},
    ),
    "bf16-routing-replay": Arm(
        about="bfloat16, and the trainer uses the engine's choice of experts",
        fixes=("routing-replay",),
        settings={"dtype": "bfloat16"},
        mends="bf16",
    ),
    "top-p": Arm(
        about="sampled from a nucleus of 0.8 that the trainer does not know of",
        faults=("top-p",),
    ),
    "top-p-sampler-mask": Arm(
        about="nucleus of 0.8, and the trainer renormalises over the same tokens",
        faults=("top-p",),
        fixes=("sampler-mask",),
        mends="top-p",
    ),
    "stale-weights": Arm(
        about="the engine stays 8 updates behind",
        faults=("stale-weights",),
    ),
}


def parse_arms(text: str) -> tuple[str, ...]:
    """Names of arms, separated by commas.

    Raises:
        InputError: none, one that does not exist, or one named twice.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError("--compare names no arm.", f"Available: {', '.join(ARMS)}.")
    for name in names:
        if name not in ARMS:
            raise InputError(
                f"Unknown arm {name!r}.", f"{nearest(name, ARMS)}Available: {', '.join(ARMS)}."
            )
        if names.count(name) > 1:
            raise InputError(f"--compare names {name} twice.")
    return names


def arm_config(base: TrainConfig, name: str, seed: int) -> TrainConfig:
    """The run of an arm with a seed; faults and fixes of the base are in every arm.

    Raises:
        InputError: a setting of the arm has no such name or value.
    """
    arm = ARMS[name]
    values = base.model_dump(mode="json")
    values["faults"] = (*base.faults, *arm.faults)
    values["fixes"] = tuple(dict.fromkeys((*base.fixes, *arm.fixes)))
    return read_config(None, {**values, **arm.settings, "seed": seed})
