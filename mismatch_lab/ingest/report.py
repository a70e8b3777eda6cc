"""What an ingestion wrote and what it left out: `ingest.json`."""

from __future__ import annotations

from mismatch_lab.ingest.rows import BOTH, EQUAL
from mismatch_lab.schema.base import Strict

REPORT = "ingest.json"

MEGABYTE = 1e6


class StepReport(Strict):
    """One record."""

    step: int | None
    folder: str
    """Within the output; `.` is all of it."""
    rows: int
    of_rows: int
    """Before --sample."""
    tokens: int
    sampled: int


class Report(Strict):
    """ingest.json."""

    schema_version: int = 1
    format: str
    path: str
    mask: str
    masks: str
    """Those that the format has, and what `generated` is made of."""
    steps: list[StepReport]
    counts: dict[str, int]
    """What was found, left out or put right -> how often, over all rows that were read."""
    bytes: int
    wall_s: float
    cannot_know: list[str]

    def as_json(self) -> str:
        """For machines."""
        return self.model_dump_json(indent=1)

    @property
    def is_copy(self) -> bool:
        """Whether both sides are equal to the last bit wherever they have numbers."""
        both = self.counts.get(BOTH, 0)
        return both > 0 and self.counts.get(EQUAL, 0) >= both

    @property
    def mb_per_s(self) -> float:
        """Megabytes of the dump a second."""
        return self.bytes / MEGABYTE / self.wall_s
