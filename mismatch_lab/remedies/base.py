"""What a remedy is, for people; what it does stands in its module and is called by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One published fix."""

    id: str
    about: str
    formula: str
    source: str
    causes: tuple[str, ...]
    """Cause ids that it removes or makes harmless."""
