"""One step's episodes as padded tensors, and the micro-batches they are cut into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mismatch_lab.trainer.rollout import Answer
from mismatch_lab.trainer.tasks.episodes import Episode

Int16 = NDArray[np.int16]


@dataclass(frozen=True)
class Batch:
    """R rows of at most n tokens, padded on the right; token t's log-prob stands at t."""

    ids: Tensor
    """[R, n]"""
    lengths: Tensor
    """[R]"""
    mask: Tensor
    """[R, n] float: 1 where the engine sampled the token."""
    logp_infer: Tensor
    """[R, n] what the engine returned; 0 where it sampled nothing."""
    advantages: Tensor
    """[R]"""
    routing: Tensor | None = None
    """[R, n, L, K] experts that the engine chose for each token as input; -1: not known."""
    support: Tensor | None = None
    """[R, n, V] bool: the tokens that the engine's sampler left possible; None: all."""
    truncated: Tensor | None = None
    """[R] bool: rows that ran out of room; None where nobody knows."""

    @property
    def n_rows(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int], device: torch.device | None = None) -> Batch:
        """Some rows, cut to the longest of them."""
        chosen = torch.tensor(list(rows))
        width = int(self.lengths[chosen].max())

        def part(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen, :width].to(device)

        ids, mask, logp_infer = self.ids, self.mask, self.logp_infer
        return Batch(
            ids[chosen, :width].to(device),
            self.lengths[chosen],
            mask[chosen, :width].to(device),
            logp_infer[chosen, :width].to(device),
            self.advantages[chosen].to(device),
            part(self.routing),
            part(self.support),
            None if self.truncated is None else self.truncated[chosen],
        )

    def attention_mask(self) -> Tensor | None:
        """[R, n], None where nothing is padded."""
        width = self.ids.shape[1]
        if int(self.lengths.min()) == width:
            return None
        positions = torch.arange(width)[None] < self.lengths[:, None]
        return positions.long().to(self.ids.device)


def stack(episodes: Sequence[Episode[Answer]], advantages: Tensor) -> Batch:
    """Episodes as one batch, in order."""
    lengths = [len(episode.token_ids) for episode in episodes]
    shape = (len(episodes), max(lengths))
    ids = torch.zeros(shape, dtype=torch.long)
    mask, logp_infer = torch.zeros(shape), torch.zeros(shape)
    for row, episode in enumerate(episodes):
        n = lengths[row]
        ids[row, :n] = torch.tensor(episode.token_ids)
        mask[row, :n] = torch.tensor(episode.sampled, dtype=torch.float32)
        logp_infer[row, :n] = torch.tensor(episode.logp_infer)
    logp_infer = torch.where(mask > 0, logp_infer, 0.0)
    return Batch(
        ids,
        torch.tensor(lengths),
        mask,
        logp_infer,
        advantages,
        _routing(episodes, shape),
        _support(episodes, shape),
        torch.tensor([episode.ran_out_of_room for episode in episodes]),
    )


def lay_out(rows: Mapping[int, Tensor], shape: torch.Size, fill: float) -> Tensor:
    """[R, n] on the CPU: values of some rows, each as far as it goes, and the filling elsewhere."""
    laid = torch.full(shape, fill)
    for row, values in rows.items():
        laid[row, : len(values)] = values
    return laid


def micro_batches(lengths: Tensor, rows: Sequence[int], size: int) -> list[list[int]]:
    """The rows in groups of at most `size`, those of like length together: little padding."""
    ordered = sorted(rows, key=lambda row: (int(lengths[row]), row))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _routing(episodes: Sequence[Episode[Answer]], shape: tuple[int, int]) -> Tensor | None:
    """The last answer's record covers its whole context, and so all turns before it."""
    found = [episode.turns[-1].routing for episode in episodes]
    if any(choices is None for choices in found):
        return None
    first = found[0]
    assert first is not None
    laid = torch.full((*shape, *first.shape[1:]), -1, dtype=torch.long)
    for row, choices in enumerate(found):
        assert choices is not None
        laid[row, : len(choices)] = torch.from_numpy(choices.astype(np.int64))
    return laid


def _support(episodes: Sequence[Episode[Answer]], shape: tuple[int, int]) -> Tensor | None:
    """Where nothing was sampled everything counts as possible."""
    some = episodes[0].turns[0].support
    if some is None:
        return None
    laid = torch.ones((*shape, some.shape[1]), dtype=torch.bool)
    for row, episode in enumerate(episodes):
        kept = [turn.support for turn in episode.turns if turn.support is not None]
        places = torch.tensor(episode.sampled).nonzero().flatten()
        laid[row, places] = torch.from_numpy(np.concatenate(kept))
    return laid
