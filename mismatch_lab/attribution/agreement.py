"""The same cause, found twice: by what was recorded and by what was simulated."""

from __future__ import annotations

from mismatch_lab.schema import Cause

CEILING = 0.95
"""Confidence of a cause that only agreement makes sure."""


def joined(causes: list[Cause]) -> list[Cause]:
    """Causes of one suspect, each once, in their order: evidence of the same one is put together.

    Each way of finding it can err; that all do is less likely than that one does (noisy-or:
    1 - product of what each leaves open). Tied causes (`decides`) stay as they are.
    """
    found: dict[tuple[str, str | None], Cause] = {}
    for number, cause in enumerate(causes):
        key = (cause.id, cause.location) if not cause.decides else (f"{number}", None)
        found[key] = _both(found[key], cause) if key in found else cause
    return list(found.values())


def _both(first: Cause, second: Cause) -> Cause:
    surest = max(first.confidence, second.confidence)
    either = 1 - (1 - first.confidence) * (1 - second.confidence)
    return first.model_copy(
        update={
            "confidence": round(max(surest, min(CEILING, either)), 3),
            "why": f"{first.why} {second.why}",
            "evidence": [*first.evidence, *second.evidence],
            "confirmed_by": [*first.confirmed_by, *second.confirmed_by],
        }
    )
