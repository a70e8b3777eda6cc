"""The reference with the very mixture of old and new tensors that the engine was found to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HEAD
from mismatch_lab.findings.versions import EMBEDDING_TENSOR, TensorUse, Versions
from mismatch_lab.schema import Alteration

EXPLAINED = 0.05
"""The mixture of old and new explains the engine when at most this share of the error is left,"""

FLOORS = 2.0
"""or at most this many times what precision does."""

Score = Callable[[tuple[Alteration, ...]], Capture | None]
"""The altered reference on the run's rows; None where it cannot be altered so."""


@dataclass(frozen=True)
class MixtureCheck:
    """The engine's re-scoring against the reference with exactly the stale tensors old."""

    before: float
    """Mean |delta| against the reference with the new weights, in nats."""
    after: float
    """The same with the mixture of `stale_weights`."""
    floor: float = 0.0
    """What precision alone does, in nats."""

    @property
    def explained(self) -> bool:
        """Whether the mixture leaves nothing of the error but precision."""
        return self.after <= max(EXPLAINED * self.before, FLOORS * self.floor)


def stale_weights(versions: Versions, folder: str) -> tuple[Alteration, ...]:
    """What makes the reference hold the mixture of old and new that the engine was found to hold.

    Empty where nothing is old, or where only the embedding of a tied pair is (which no alteration
    can do: the head would change with it).

    Args:
        versions: what was found.
        folder: the checkpoint from before the update.
    """
    old = versions.in_state("old")
    head = any(use.module == HEAD and tied(use) for use in old)
    embedding = any(use.module != HEAD and tied(use) for use in old)
    two_uses = sum(tied(use) for use in versions.uses) == 2
    if not old or (two_uses and embedding and not head):
        return ()
    names = [name for use in old if not tied(use) for name in use.group.tensors]
    if embedding:
        names.append(EMBEDDING_TENSOR)
    elif head:
        names.append("lm_head.weight")
    return (Alteration(name="weights_from", value=folder, tensors=tuple(names)),)


def check_mixture(
    versions: Versions,
    folder: str,
    engine: Capture,
    ref: Capture,
    score: Score,
    floor: float = 0.0,
) -> MixtureCheck | None:
    """Run the mixture and compare it with the engine; None where there is none to run.

    Args:
        versions: what was found.
        folder: the checkpoint from before the update.
        engine: its re-scoring.
        ref: the reference with the new weights.
        score: the altered reference.
        floor: what precision alone does, in nats.
    """
    alterations = stale_weights(versions, folder)
    mixed = score(alterations) if alterations else None
    if mixed is None:
        return None
    return MixtureCheck(_mean_abs(engine, ref), _mean_abs(engine, mixed), floor)


def tied(use: TensorUse) -> bool:
    """Whether the tensor is the embedding, which may be the head too."""
    return use.group.name == EMBEDDING_TENSOR


def _mean_abs(engine: Capture, other: Capture) -> float:
    """Mean |delta| in nats over the sampled tokens of the rows that both hold."""
    shared = min(engine.rows.n_tokens, other.rows.n_tokens)
    sampled = engine.rows.sampled[:shared]
    delta = engine.logp[:shared].astype(np.float64) - other.logp[:shared]
    return float(np.abs(delta[sampled]).mean())
