"""Token log-probs from hidden states, a chunk of tokens at a time.

A log-softmax over [tokens, vocabulary] in fp32 is the largest tensor of an RL step: 24k tokens at
a 200k vocabulary are 18 GiB. Here only one chunk of it exists at any time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 96 << 20}
"""fp32 logits held at once, by device. Below 32 MiB glibc reuses a chunk's memory instead of
mapping it anew for each; a GPU reads the head's weights once a chunk and wants more tokens."""

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
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logp = hidden.new_empty(len(hidden), dtype=wide)  # nothing small is left between the chunks
    size = _chunk_tokens(head, hidden)
    for start in range(0, len(hidden), size):
        log_probs = log_softmax(head(hidden[start : start + size]), temperature)
        chosen = log_probs.gather(-1, targets[start : start + size, None])
        logp[start : start + size] = chosen.squeeze(-1)
    return logp


def _chunk_tokens(head: Head, hidden: Tensor) -> int:
    """Tokens of a chunk; the first token alone tells the size of the vocabulary."""
    if len(hidden) <= FEWEST:
        return FEWEST
    vocabulary = head(hidden[:1]).shape[-1]
    return max(FEWEST, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cuda"]) // (4 * vocabulary))
