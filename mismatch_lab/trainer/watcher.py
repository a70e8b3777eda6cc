"""Who is told of a run while it goes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self


class Watcher:
    """Told of a run as it goes; this one keeps quiet. A context manager around the run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def begin(self, step: int) -> None:
        """Steps before this one are made, by a run that is resumed; engines start next."""

    def phase(self, name: str) -> None:
        """A phase begins; the one before it has ended."""

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """A step is made; see `metrics.py` for what the last one, of number `steps`, is."""


QUIET = Watcher()
