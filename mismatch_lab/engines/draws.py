"""How likely the drawn tokens are under other ways of sampling, where distributions are at hand.

No distribution is kept: of each sampled token two numbers stay, of each row what its tokens gain
under every supposition of `measures/suppositions.py`. Nothing is sorted but the few hundred
likeliest tokens; a temperature takes one sum over the vocabulary, a penalty only the tokens of the
row. 1,264 tokens over a vocabulary of 49,152 take about 2 s of one core.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mismatch_lab.captures.capture import Rows
from mismatch_lab.engines.assemble import COUNTED, RowDraws
from mismatch_lab.engines.chunked_logp import chunk_tokens
from mismatch_lab.measures.suppositions import FAMILIES, LARGEST, LEAK

AT_ONCE = 16
"""Distributions that are gone through for one temperature after another: so many over 49,152 tokens
stay in a processor's cache, which halves the time."""

FLOOR = -1e4
"""Stands for a log-prob of minus infinity, whose product with its probability 0 is NaN."""


class DrawsRecorder:
    """Takes a row's distributions, some at a time."""

    def __init__(self, rows: Rows, row: int, temperature: float, device: torch.device) -> None:
        start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])

        def on_device(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.temperature = temperature
        self.ids = on_device(rows.token_ids[start:stop].astype(np.int64))
        self.sampled = on_device(rows.sampled[start:stop])
        self.turn_starts = on_device(rows.turn_starts()[start:stop] - start)
        self.unique, self.column = torch.unique(self.ids, return_inverse=True)
        self.per_token = torch.full((2, stop - start), torch.nan, device=device)
        self.gains = {
            name: torch.zeros(3, len(family.values), dtype=torch.float64, device=device)
            for name, family in FAMILIES.items()
        }
        self.expected: Tensor | None = None
        self.vocabulary = 0

    def watch(self, start: int, logits: Tensor, log_probs: Tensor) -> None:
        """Distributions at some positions of the row, one after another.

        Args:
            start: place in the row of the first; it predicts the token behind it.
            logits: [c, V] over the temperature.
            log_probs: [c, V] their log-softmax.
        """
        places = torch.arange(start, start + len(log_probs), device=log_probs.device) + 1
        drawn = log_probs.gather(1, self.ids[places][:, None])[:, 0]
        kept = self.sampled[places] & drawn.isfinite()
        if not bool(kept.any()):
            return
        places, drawn = places[kept], drawn[kept]
        log_probs = log_probs[kept].clamp_(min=FLOOR)
        others = self._moments(log_probs, places)
        self._temperatures(log_probs, drawn)
        self._edges(log_probs, drawn)
        self._penalties(logits[:, self.unique][kept], log_probs[:, self.unique], others, places)

    def record_of(self, logits: Tensor) -> RowDraws:
        """Of a row's logits [n - 1, V] over the temperature, where they are all at hand."""
        size = chunk_tokens(logits.shape[1])
        for start in range(0, len(logits), size):
            if bool(self.sampled[start + 1 : start + 1 + size].any()):
                part = logits[start : start + size]
                self.watch(start, part, torch.log_softmax(part, dim=-1))
        return self.record()

    def record(self) -> RowDraws:
        """All that was watched."""
        entropy, variance = self.per_token.float().cpu().numpy()
        expected = torch.zeros(0) if self.expected is None else self.expected.float().cpu()
        ids = (expected >= COUNTED).nonzero()[:, 0]
        return RowDraws(
            entropy,
            variance,
            {name: gains.cpu().numpy() for name, gains in self.gains.items()},
            len(expected),
            ids.numpy(),
            expected[ids].numpy(),
        )

    def _moments(self, log_probs: Tensor, places: Tensor) -> Tensor:
        """Also: [c] the mass of all tokens that are not in the row."""
        p = log_probs.exp()
        first = torch.linalg.vecdot(p, log_probs)
        total = p.new_ones(1, len(p)) @ p  # a sum over the first axis takes ten times as long
        self.expected = total[0] if self.expected is None else self.expected + total[0]
        others = p.index_fill(1, self.unique, 0.0).sum(-1)
        second = torch.linalg.vecdot(p.mul_(log_probs), log_probs)
        self.per_token[0, places] = -first.to(self.per_token)
        self.per_token[1, places] = (second - first**2).clamp(min=0).to(self.per_token)
        return others

    def _temperatures(self, log_probs: Tensor, drawn: Tensor) -> None:
        """At temperature 1 / b log-probs are b times what they were, less log sum exp of that."""
        starts = range(0, len(drawn), AT_ONCE)
        for part, token in (
            (log_probs[a : a + AT_ONCE], drawn[a : a + AT_ONCE].double()) for a in starts
        ):
            q = torch.empty_like(part)
            for at, value in enumerate(FAMILIES["temperature"].values):
                b = 1 / value
                torch.mul(part, b, out=q)
                total = q.exp_().sum(-1)
                mean = (torch.linalg.vecdot(q, part) / total).double()
                square = (torch.linalg.vecdot(q.mul_(part), part) / total).double()
                shift, spread = total.double().log(), (square - mean**2).clamp(min=0)
                gains = ((b - 1) * token - shift, (b - 1) * mean - shift, (b - 1) ** 2 * spread)
                self.gains["temperature"][:, at] += torch.stack([gain.sum() for gain in gains])

    def _edges(self, log_probs: Tensor, drawn: Tensor) -> None:
        """Top-k, top-p and min-p: which of the likeliest tokens each keeps, and their mass."""
        top = log_probs.topk(min(LARGEST, log_probs.shape[1])).values.double()
        mass = top.exp().cumsum(1)
        before = mass - top.exp()
        everything = top.shape[1] == log_probs.shape[1]
        drawn = drawn.double()[:, None]
        rank = (top > drawn).sum(1, keepdim=True)
        beyond = torch.full_like(drawn, torch.inf)
        drawn_before = torch.cat([before, beyond], 1).gather(1, rank)

        def keep(name: str, counts: Tensor, inside: Tensor) -> None:
            """Gains of sets of the `counts` [c, M] likeliest tokens; is the drawn one in them?"""
            held = mass.gather(1, (counts - 1).clamp(0, mass.shape[1] - 1)).clamp(max=1.0)
            if not everything and name != "top_k":
                whole = counts >= top.shape[1]  # wider than looked at: nothing is left out
                held, inside = torch.where(whole, 1.0, held), inside | whole
            self.gains[name] += _gains_of_sets(held, inside)

        k, p, share = (self._values(name) for name in ("top_k", "top_p", "min_p"))
        keep("top_k", k.long().expand(len(top), -1), rank < k)
        wanted = p.expand(len(top), -1).contiguous()
        keep("top_p", torch.searchsorted(before, wanted), drawn_before < p)
        least = (top[:, :1] + share.log()).contiguous()
        keep("min_p", torch.searchsorted(-top, -least, right=True), drawn >= least)

    def _penalties(self, logits: Tensor, log_probs: Tensor, others: Tensor, places: Tensor) -> None:
        """Penalties move tokens of the row alone: [c, U] of logits and log-probs; [c] of others."""
        logits, log_probs = logits.double().clamp(min=FLOOR), log_probs.double()
        others = others.double()[:, None]
        index = torch.arange(len(self.ids), device=places.device)
        earlier = index < places[:, None]
        this_turn = earlier & (index >= self.turn_starts[places][:, None])
        # As vLLM counts: what the request was given and has answered, or the answer alone.
        seen = self._count(earlier) > 0
        counts = self._count(this_turn)
        drawn = self.column[places][:, None]
        moves: dict[str, Callable[[float], Tensor]] = {
            "repetition_penalty": lambda r: torch.where(
                seen, torch.where(logits > 0, logits / r, logits * r) - logits, 0.0
            ),
            "presence_penalty": lambda a: (counts > 0) * (-a / self.temperature),
            "frequency_penalty": lambda a: counts * (-a / self.temperature),
        }
        for name, move in moves.items():
            for at, value in enumerate(FAMILIES[name].values):
                self.gains[name][:, at] += _gains_of_moves(log_probs, move(value), others, drawn)

    def _count(self, chosen: Tensor) -> Tensor:
        """[c, U] how often each token of the row stands at the chosen places [c, n]."""
        counts = torch.zeros(
            len(chosen), len(self.unique), dtype=torch.float64, device=chosen.device
        )
        return counts.index_add_(1, self.column, chosen.double())

    def _values(self, name: str) -> Tensor:
        return torch.tensor(FAMILIES[name].values, dtype=torch.float64, device=self.ids.device)


def _gains_of_sets(held: Tensor, inside: Tensor) -> Tensor:
    """[3, M] of sampling from sets of tokens, and at a rate of LEAK from all.

    Args:
        held: [c, M] probability of the set.
        inside: [c, M] whether the drawn token is in it.
    """
    within, without = torch.log((1 - LEAK) / held + LEAK), log(LEAK)
    share, rest = 1 - LEAK + LEAK * held, LEAK * (1 - held)
    observed = torch.where(inside, within, without)
    expected = share * within + rest * without
    variance = share * rest * (within - without) ** 2
    return torch.stack([observed.sum(0), expected.sum(0), variance.sum(0)])


def _gains_of_moves(log_probs: Tensor, moved: Tensor, others: Tensor, drawn: Tensor) -> Tensor:
    """[3] of logits of some tokens moved.

    Masses are added up, never taken from 1: where a token is nearly certain, what is left beside it
    would be lost in the rounding of its log-prob.

    Args:
        log_probs: [c, U] of these tokens.
        moved: [c, U] by how much.
        others: [c, 1] mass of all other tokens.
        drawn: [c, 1] column of the drawn token.
    """
    before = log_probs.exp().sum(1, keepdim=True) + others
    after = (log_probs + moved).exp().sum(1, keepdim=True) + others
    shift = (after / before).log()
    q = (log_probs + moved).exp() / after
    first, second = (q * moved).sum(1, keepdim=True), (q * moved**2).sum(1, keepdim=True)
    observed = moved.gather(1, drawn) - shift
    return torch.stack(
        [observed.sum(), (first - shift).sum(), (second - first**2).clamp(min=0).sum()]
    )
