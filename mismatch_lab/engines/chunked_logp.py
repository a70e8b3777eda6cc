"""Token log-probs from hidden states, a chunk of tokens at a time.

A log-softmax over [tokens, vocabulary] in fp32 is the largest tensor of an RL step: 24k tokens at
a 200k vocabulary are 18 GiB. Here only one chunk of it exists at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

CHUNK_BYTES = 96 << 20
"""fp32 logits held at once: each chunk reads the head's weights anew, so that few tokens a chunk
are slow (on a CPU, 1,024 numbers wide and 200k tokens: 24 MiB take 1.7 times as long)."""

FEWEST = 16
"""Tokens of a chunk at least."""

Head = Callable[[Tensor], Tensor]
"""[n, D] hidden states to [n, V] logits, softcaps and scales included."""


Watch = Callable[[int, Tensor, Tensor], None]
"""Is told of each chunk: its first token, [c, V] logits over the temperature, [c, V] log-probs."""


def over_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, in at least fp32: a quotient in half precision would be
    rounded once more, which no sampler does.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature == 1.0 else wide / temperature


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-softmax in at least fp32, of logits divided by the temperature."""
    return torch.log_softmax(over_temperature(logits, temperature), dim=-1)


def token_logp(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    watch: Watch | None = None,
) -> Tensor:
    """Log-prob of each target token.

    Args:
        head: from hidden states to logits.
        hidden: [N, D].
        targets: [N] int64, the token that each hidden state predicts.
        temperature: divides the logits.
        watch: sees whole distributions before they are dropped.

    Returns:
        [N] in float32 (float64 where the model computes in it).
    """
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logp = hidden.new_empty(len(hidden), dtype=wide)  # nothing small is left between the chunks
    size = _chunk_of(head, hidden)
    room = _Room()
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        watched = None if watch is None else partial(watch, start)
        logp[part] = _chosen(head(hidden[part]), targets[part], temperature, watched, room)
    return logp


class _Room:
    """Memory of a chunk's log-probs, taken once: a C library gives a freed block back to the
    system and has to clear it page by page when it is wanted again, which takes as long as the
    log-softmax. Where gradients are kept, each chunk has its own.
    """

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def log_softmax(self, logits: Tensor) -> Tensor:
        """[c, V], good until the next call."""
        if logits.requires_grad:
            return torch.log_softmax(logits, dim=-1)
        if self._kept is None:
            self._kept = torch.empty_like(logits)
        out = self._kept[: len(logits)]  # the first chunk is the longest
        return torch.log_softmax(logits, dim=-1, out=out)


def _chosen(
    logits: Tensor,
    targets: Tensor,
    temperature: float,
    watch: Callable[[Tensor, Tensor], None] | None,
    room: _Room,
) -> Tensor:
    """[c] log-probs of the targets of a chunk; its logits are gone when this returns."""
    logits = over_temperature(logits, temperature)
    log_probs = room.log_softmax(logits)
    if watch is not None:
        watch(logits, log_probs)
    return log_probs.gather(-1, targets[:, None]).squeeze(-1)


def _chunk_of(head: Head, hidden: Tensor) -> int:
    """Tokens of a chunk; the first token alone tells the size of the vocabulary."""
    if len(hidden) <= FEWEST:
        return FEWEST
    return chunk_tokens(head(hidden[:1]).shape[-1])


def chunk_tokens(vocabulary: int) -> int:
    """Distributions over the vocabulary that are held at once."""
    return max(FEWEST, CHUNK_BYTES // (4 * vocabulary))
