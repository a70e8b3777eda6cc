"""What the catalogue says of one cause."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LARGEST_LOGITS_NATS = 100.0
"""What models' logits hardly exceed: bounds what a rounding of them, or before them, can do."""

Family = Literal[
    "semantics", "precision", "tokens", "attention", "cache", "moe", "weights", "trainer"
]
FRAMEWORKS = ("verl", "TRL", "NeMo-RL", "slime", "FSDP")
"""Users that every cause has a remedy for, by name."""


@dataclass(frozen=True)
class CauseEntry:
    """One cause: what it is, how it shows, what confirms it, what to do."""

    id: str
    family: Family
    title: str
    """A few words: what is wrong."""
    mechanism: str
    """Why the sides then disagree."""
    signature: str
    """What it predicts of the observations."""
    confirmation: str
    """The experiment that separates it from its neighbours."""
    remedy_id: str
    """Name of the fix; `mismatch-lab train --fix` where there is one."""
    remedy: str
    """What to do, in one or two sentences, whatever the framework."""
    remedies: dict[str, str]
    """framework -> setting or step; every one of FRAMEWORKS."""
    sources: tuple[str, ...]
    """Where it was seen: URLs."""
    fault: str | None
    """The plantable fault that proves the entry; None for what is no fault (the floor)."""
    neighbours: tuple[str, ...] = ()
    """Causes it is easily taken for."""
    largest_nats: float = math.inf
    """mean |delta| beyond which it cannot be this: a rounding moves a logit by its unit roundoff
    times the largest logits that models have, some 100 nats."""
