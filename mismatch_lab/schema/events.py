"""What is told of work while it goes: by a worker to its program, and to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageBegan:
    text: str


@dataclass(frozen=True)
class Progressed:
    done: int
    total: int


@dataclass(frozen=True)
class Started:
    side: str
    wall_s: float


@dataclass(frozen=True)
class Captured:
    id: str
    side: str
    wall_s: float
    cached: bool = False
    """Whether it was there before."""


Event = StageBegan | Progressed | Started | Captured
OnEvent = Callable[[Event], None]
