"""From the arguments transformers hands an attention function to documents one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.attention_sinks.spec import Layout


@dataclass(frozen=True)
class Packing:
    """The documents of a batch of B rows, and which of its tokens belong to any."""

    layout: Layout
    q_kept: Tensor | None = None
    """[T] places among the queries of all rows, None for all of them."""
    k_kept: Tensor | None = None
    """[S] places among the keys of all rows, None for all of them."""

    def pack(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """[B, H, n, D] to [T, H, D], contiguous: kernels lay `out` out as they find q."""
        flat = x.transpose(1, 2).flatten(0, 1)
        return (flat if kept is None else flat[kept]).contiguous()

    def unpack(self, out: Tensor, batch: int, n: int) -> Tensor:
        """[T, H, D] to [B, n, H, D], zero at padding."""
        if self.q_kept is not None:
            whole = out.new_zeros(batch * n, *out.shape[1:])
            out = whole.index_copy(0, self.q_kept, out)
        return out.reshape(batch, n, *out.shape[1:])


def counted(cu_q: Tensor, cu_k: Tensor, max_q: int | None, max_k: int | None) -> Packing:
    """Documents as the caller counted them (`cu_seq_lens_q` and its kin)."""
    longest_q = int(cu_q.diff().max()) if max_q is None else int(max_q)
    longest_k = int(cu_k.diff().max()) if max_k is None else int(max_k)
    return Packing(Layout(cu_q.int(), cu_k.int(), longest_q, longest_k))


def packing_of(
    batch: int, n: int, m: int, mask: Tensor | None, positions: Tensor | None, device: torch.device
) -> Packing:
    """Documents of a batch: from its padding, else from positions that restart, else its rows.

    Args:
        batch: rows.
        n: queries of a row.
        m: keys of a row, cached ones among them.
        mask: [B, m], False at padding; None where nothing is padded.
        positions: [B, n] or [1, n] positions of the queries, or None.
        device: of the layout.

    Raises:
        InputError: a mask of another shape.
    """
    if mask is not None:
        if mask.shape != (batch, m):
            raise InputError(
                f"The attention mask has shape {tuple(mask.shape)}, and there are {batch} rows of "
                f"{m} keys.",
                "Pass [rows, keys], and no static cache; a mask of scores cannot be used.",
            )
        return _remembered(mask, (batch, n, m), lambda: _unpadded(mask.bool(), n))
    if positions is not None and positions.ndim == 2 and n == m:
        rows = positions.expand(batch, n)
        return _remembered(positions, (batch, n, m), lambda: _restarted(rows))
    return _rows(batch, n, m, device)


# One entry for each mask or positions tensor alive: all layers of a forward are handed the same
# ones, and reading lengths off them makes a GPU wait.
_KNOWN = WeakIdKeyDictionary()


def _remembered(source: Tensor, key: tuple[int, ...], make: Callable[[], Packing]) -> Packing:
    if source.is_inference():  # such tensors do not say when they were written to
        return make()
    key = (source._version, *key)
    if source not in _KNOWN or _KNOWN[source][0] != key:
        _KNOWN[source] = (key, make())
    packing: Packing = _KNOWN[source][1]
    return packing


def _rows(batch: int, n: int, m: int, device: torch.device) -> Packing:
    cu_q = torch.arange(batch + 1, dtype=torch.int32, device=device) * n
    cu_k = torch.arange(batch + 1, dtype=torch.int32, device=device) * m
    return Packing(Layout(cu_q, cu_k, n, m))


def _unpadded(mask: Tensor, n: int) -> Packing:
    q_mask = mask[:, -n:]
    q_lengths, k_lengths = q_mask.sum(-1), mask.sum(-1)
    layout = Layout(
        _starts(q_lengths), _starts(k_lengths), int(q_lengths.max()), int(k_lengths.max())
    )
    return Packing(layout, _places(q_mask), _places(mask))


def _restarted(positions: Tensor) -> Packing:
    batch, n = positions.shape
    restarts = positions.diff(dim=-1) != 1
    if not restarts.any():
        return _rows(batch, n, n, positions.device)
    first = torch.ones_like(positions[:, :1], dtype=torch.bool)
    starts = _places(torch.cat([first, restarts], dim=-1)).int()
    cu = torch.cat([starts, starts.new_tensor([batch * n])])
    longest = int(cu.diff().max())
    return Packing(Layout(cu, cu, longest, longest))


def _places(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().flatten()


def _starts(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
