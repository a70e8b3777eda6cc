"""Token log-probs from hidden states, a chunk of tokens at a time.

A log-softmax over [tokens, vocabulary] in fp32 is the largest tensor of an RL step: 24k tokens at
a 200k vocabulary are 18 GiB. Here only one chunk of it exists at any time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_BYTES = 48 << 20
"""fp32 logits held at once: small beside a model, large enough to keep a GPU busy. Above 32 MiB
glibc maps memory and gives it back; with smaller chunks its heap grew to half of what is saved
here (aligned blocks do not fit into the holes that they leave)."""

FEWEST = 16
"""Tokens of a chunk at least."""

Head = Callable[[Tensor], Tensor]
"""[n, D] hidden states to [n, V] logits, softcaps and scales included."""


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-softmax in at least fp32, of logits divided by the temperature."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)


def token_logp(head: Head, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-prob of each target token.

    Args:
        head: from hidden states to logits.
        hidden: [N, D].
        targets: [N] int64, the token that each hidden state predicts.
        temperature: divides the logits.

    Returns:
        [N] in float32 (float64 where the model computes in it).
    """
    parts, size = [], _chunk_tokens(head, hidden)
    for start in range(0, len(hidden), size):
        logits = head(hidden[start : start + size])
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if temperature != 1.0:
            logits = logits / temperature
        chosen = logits.gather(-1, targets[start : start + size, None]).squeeze(-1)
        parts.append(chosen - torch.logsumexp(logits, dim=-1))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _chunk_tokens(head: Head, hidden: Tensor) -> int:
    """Tokens of a chunk; the first token alone tells the size of the vocabulary."""
    if len(hidden) <= FEWEST:
        return FEWEST
    vocabulary = head(hidden[:1]).shape[-1]
    return max(FEWEST, CHUNK_BYTES // (4 * vocabulary))
