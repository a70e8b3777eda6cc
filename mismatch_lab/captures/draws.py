"""What tells whether tokens were drawn from the distributions that a capture is of.

A few numbers a token and a row, computed where whole distributions are at hand and dropped again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.errors import CaptureError
from mismatch_lab.measures.suppositions import FAMILIES

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_PREFIX = "draws/"
_NAMED = ("entropy", "variance", "expected_counts")


@dataclass(frozen=True)
class Draws:
    """Of T tokens in R rows, over a vocabulary of V; nats.

    Everything is of the distribution that a sampled token was drawn from, at the temperature of the
    capture.
    """

    entropy: Float32
    """[T]; NaN where nothing was sampled."""
    variance: Float32
    """[T] of the log-prob, in nats squared."""
    gains: dict[str, Float64]
    """family -> [R, 3, M], see `measures/suppositions.py`; summed over a row's sampled tokens."""
    expected_counts: Float32
    """[V] how often each token was to be expected: its probabilities, summed; a row's are left out
    where they come to less than `engines.assemble.COUNTED`."""

    def validate(self, where: str, tokens: int, rows: int) -> None:
        """Raise CaptureError unless the arrays fit together."""
        shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
            ("entropy", self.entropy.shape, (tokens,)),
            ("variance", self.variance.shape, (tokens,)),
            ("expected_counts", self.expected_counts.shape, (self.expected_counts.size,)),
        ]
        for name, family in FAMILIES.items():
            got = self.gains[name].shape if name in self.gains else ()
            shapes.append((name, got, (rows, 3, len(family.values))))
        for name, got, want in shapes:
            if got != want:
                raise CaptureError(
                    f"{where}: {_PREFIX}{name} has shape {got}, expected {want}.",
                    "Another version recorded it: capture it again.",
                )


def draws_to_arrays(draws: Draws) -> dict[str, NDArray[Any]]:
    """As they are stored beside the arrays of a capture."""
    named = {name: getattr(draws, name) for name in _NAMED}
    return {_PREFIX + name: array for name, array in (named | draws.gains).items()}


def draws_from_arrays(arrays: Mapping[str, NDArray[Any]], where: str) -> Draws | None:
    """What was stored, None if nothing.

    Raises:
        CaptureError: part of it is missing.
    """
    found = {n.removeprefix(_PREFIX): a for n, a in arrays.items() if n.startswith(_PREFIX)}
    if not found:
        return None
    try:
        named = {n: found.pop(n) for n in _NAMED}
    except KeyError as error:
        lacking = f"{where} lacks {_PREFIX}{error.args[0]}."
        raise CaptureError(lacking, "Capture it again.") from error
    return Draws(**named, gains=found)
