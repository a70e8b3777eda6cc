"""What the engine asks of a server, of whichever kind: who it is, a sample, a score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Float32
from mismatch_lab.engines.http.client import Client
from mismatch_lab.schema import OptionValue, Sampling

Identity = dict[str, str]
"""What tells a server from the one that it was: version, models, start, version of the weights."""


@dataclass(frozen=True)
class Facts:
    """What a server says of itself, or is found out by asking."""

    kind: str
    """`vllm` or `sglang`."""
    version: str
    model: str
    """As it is called there."""
    root: str
    """Where the server has it from; empty where it does not say."""
    context_length: int
    top_logprobs: int
    """The most that it returns at a position beside the token's own; the vocabulary where there is
    no limit."""
    said: dict[str, OptionValue] = field(default_factory=dict)
    """Further settings that it shows."""


@dataclass(frozen=True)
class Sampled:
    """An answer."""

    token_ids: list[int]
    logp: Float32
    """[n] of these, as the server returned them."""
    top: list[dict[int, float]] = field(default_factory=list)
    """The likeliest tokens at each, where asked for."""
    cached_tokens: int | None = None
    """Prompt tokens from the prefix cache, where it says."""
    weight_version: str = ""


@dataclass(frozen=True)
class Scored:
    """Given tokens, scored at temperature 1."""

    logp: Float32
    """[n] the first is NaN"""
    top_ids: NDArray[np.int64]
    """[n, k] likeliest tokens; -1 where there are fewer"""
    top_logp: Float32
    """[n, k] NaN there"""
    experts: NDArray[np.int64] | None = None
    """[n, L, K], or [n, L * K]"""
    weight_version: str = ""


class Server(Protocol):
    """One server of one kind."""

    client: Client
    facts: Facts

    async def identity(self) -> Identity:
        """Ask who it is, by GETs alone."""
        ...

    async def checksum(self) -> str:
        """Let it compute a checksum of its weights; only where that was asked for by name.

        Raises:
            InputError: it does not.
        """
        ...

    async def sample(
        self, ids: list[int], sampling: Sampling, seed: int, salt: str, top: int = 0
    ) -> Sampled:
        """Let it answer a prompt of token ids."""
        ...

    async def score(self, ids: list[int], top: int, salt: str) -> Scored:
        """Let it score token ids in one forward."""
        ...

    async def following(self, ids: list[int], top: int, salt: str) -> dict[int, float]:
        """Log-probs at temperature 1 of the likeliest tokens behind these, nothing taken away."""
        ...


def padded(steps: list[dict[int, float]], width: int) -> tuple[NDArray[np.int64], Float32]:
    """Ragged maps of id -> log-prob as two arrays [n, width], the likeliest first."""
    ids = np.full((len(steps), width), -1, np.int64)
    logp = np.full((len(steps), width), np.nan, np.float32)
    for row, step in enumerate(steps):
        found = np.fromiter(step.keys(), np.int64, len(step))
        values = np.fromiter(step.values(), np.float32, len(step))
        order = np.argsort(-values, kind="stable")[:width]
        ids[row, : len(order)], logp[row, : len(order)] = found[order], values[order]
    return ids, logp
