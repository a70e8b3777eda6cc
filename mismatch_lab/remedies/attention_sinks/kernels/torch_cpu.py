"""torch's flash attention for CPUs, which takes a foreign lse and out back as they are.

It knows no documents and no windows. Documents are run one by one. A window is cut into tiles: a
block of queries and the keys that any of them sees, so that memory stays linear in length and every
query still meets all of its keys in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mismatch_lab.remedies.attention_sinks.spec import Spec, visible

SMALLEST_BLOCK = 128
"""Queries of a tile: for narrow windows, so many that the calls stay few."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Tile:
    """One dense call: queries `rows` against `keys`."""

    rows: slice
    keys: slice
    offset: int
    """Position of the first query among the keys."""
    causal: bool
    """The kernel's own causal mask is the right one."""

    def mask(self, q: Tensor, window: int | None) -> Tensor | None:
        """[1, 1, n, m] additive mask, None where the kernel needs none.

        In the dtype of q: the kernel reads any other one as if it were.
        """
        if self.causal:
            return None
        rows = range(self.offset, self.offset + self.rows.stop - self.rows.start)
        seen = visible(rows, range(self.keys.stop - self.keys.start), window, q.device)
        return torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf)[None, None]


def tiles(spec: Spec) -> Iterator[Tile]:
    """The dense calls that together are this attention."""
    for rows, keys in spec.layout.documents():
        n, m = rows.stop - rows.start, keys.stop - keys.start
        if spec.window is None or spec.window >= m:
            yield Tile(rows, keys, m - n, causal=n == m)
            continue
        block = max(SMALLEST_BLOCK, spec.window)
        for start in range(0, n, block):
            stop = min(start + block, n)
            first = max(0, start + m - n - spec.window + 1)
            tile_rows = slice(rows.start + start, rows.start + stop)
            tile_keys = slice(keys.start + first, keys.start + stop + m - n)
            yield Tile(tile_rows, tile_keys, start + m - n - first, causal=False)


class TorchCpuKernel:
    """`aten::_scaled_dot_product_flash_attention_for_cpu`."""

    def unfit(self, q: Tensor) -> str:
        return "" if q.device.type == "cpu" else f"it runs on CPUs, not on {q.device.type}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        wide = torch.promote_types(q.dtype, torch.float32)
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=wide)
        for tile in tiles(spec):
            dense = _dense(q[tile.rows]), _dense(k[tile.keys]), _dense(v[tile.keys])
            mask = tile.mask(q, spec.window)
            part, part_lse = _forward(*dense, 0.0, tile.causal, attn_mask=mask, scale=spec.scale)
            out[tile.rows] = _flat(part)
            lse[:, tile.rows] = part_lse[0]
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spec: Spec
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in tiles(spec):
            dense = _dense(q[tile.rows]), _dense(k[tile.keys]), _dense(v[tile.keys])
            given = _dense(out[tile.rows]), lse[None, :, tile.rows]
            mask = tile.mask(q, spec.window)
            grad = _dense(dout[tile.rows])
            parts = _backward(
                grad, *dense, *given, 0.0, tile.causal, attn_mask=mask, scale=spec.scale
            )
            dq[tile.rows] = _flat(parts[0])
            dk[tile.keys] += _flat(parts[1])  # tiles of a window share keys
            dv[tile.keys] += _flat(parts[2])
        return dq, dk, dv


def _dense(x: Tensor) -> Tensor:
    """[n, H, D] to [1, H, n, D]."""
    return x.transpose(0, 1)[None]


def _flat(x: Tensor) -> Tensor:
    """[1, H, n, D] to [n, H, D]."""
    return x[0].transpose(0, 1)


KERNEL = TorchCpuKernel()
