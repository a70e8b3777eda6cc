"""A causal LM whose forward returns log-probs of given tokens, a chunk of the vocabulary at a time.

The logits of a whole batch never exist: each chunk is made again in the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mismatch_lab.engines.chunked_logp import chunk_tokens, log_softmax
from mismatch_lab.engines.torch_model import BodyAndHead


class Scores(NamedTuple):
    """[B, n] each, at the token they are of; the first token of a row has 0."""

    logp: Tensor
    entropy: Tensor
    """Of the distribution that the token was drawn from, nats; without gradient."""


class PolicyModel(nn.Module):
    """The module that FSDP2 shards: what it computes, it computes in one forward."""

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        temperature: float,
        support: Tensor | None = None,
    ) -> Scores:
        """Args:
        ids: [B, n].
        attention_mask: [B, n], None where nothing is padded.
        temperature: divides the logits.
        support: [B, n, V] bool, tokens that the sampler left possible; the others get no
            probability. A token that was sampled is always possible.
        """
        parts = BodyAndHead(self.model)
        hidden = parts.hidden(ids, attention_mask)[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        kept = None if support is None else support[:, 1:].flatten(0, 1)
        size = chunk_tokens(self.vocabulary)
        logps, entropies = [], []
        for start in range(0, len(hidden), size):
            chunk = slice(start, start + size)
            logp, entropy = checkpoint(
                _score,
                parts,
                hidden[chunk],
                targets[chunk],
                temperature,
                None if kept is None else kept[chunk],
                use_reentrant=False,
            )
            logps.append(logp)
            entropies.append(entropy)
        shape = (len(ids), -1)
        first = hidden.new_zeros(len(ids), 1, dtype=torch.float32)
        return Scores(
            torch.cat([first, torch.cat(logps).view(shape)], dim=1),
            torch.cat([first, torch.cat(entropies).view(shape)], dim=1),
        )


def _score(
    parts: BodyAndHead, hidden: Tensor, targets: Tensor, temperature: float, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = parts.head(hidden)
    if kept is not None:
        possible = kept.scatter(1, targets[:, None], True)
        logits = logits.masked_fill(~possible, float("-inf"))
    log_probs = log_softmax(logits, temperature)
    with torch.no_grad():
        entropy = torch.special.entr(log_probs.exp()).sum(dim=-1)
    return log_probs.gather(-1, targets[:, None]).squeeze(-1), entropy
