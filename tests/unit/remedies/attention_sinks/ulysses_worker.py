"""One rank of two: `ulysses_worker.py RANK FOLDER`, which prints its errors."""

from __future__ import annotations

import json
import sys
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mismatch_lab.remedies.attention_sinks.attend import SinkAttention
from mismatch_lab.remedies.attention_sinks.reference import attention_reference
from mismatch_lab.remedies.attention_sinks.spec import Spec, layout_of
from mismatch_lab.trainer import ranks

LENGTHS = [9, 1, 14]  # the second rank's piece begins within the third document
RANKS, HEADS, WIDTH = 2, 4, 8


def compare(rank: int, key_heads: int, window: int | None) -> dict[str, float]:
    """Relative errors of this rank's output and gradients, those of sinks summed over the ranks."""
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    shapes = [(sum(LENGTHS), heads, WIDTH) for heads in (HEADS, key_heads, key_heads)]
    *qkv, dout = (normal(shape) for shape in (*shapes, shapes[0]))
    sinks = normal(HEADS).requires_grad_()
    for x in qkv:
        x.requires_grad_()
    spec = Spec(layout_of(LENGTHS), WIDTH**-0.5, window)
    out = attention_reference(*qkv, sinks, spec)
    true = [out, *torch.autograd.grad(out, (*qkv, sinks), dout)]

    def piece(x: Tensor) -> Tensor:
        return x.detach().chunk(RANKS)[rank]

    own = [piece(x).requires_grad_() for x in qkv]
    own_sinks = sinks.detach().clone().requires_grad_()
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    mine, _ = SinkAttention(group=dist.group.WORLD)(
        nn.Identity(),
        *(x.transpose(0, 1)[None] for x in own),
        None,
        s_aux=own_sinks,
        sliding_window=window,
        position_ids=piece(positions)[None],
    )
    got = [mine[0], *torch.autograd.grad(mine[0], (*own, own_sinks), piece(dout))]
    dist.all_reduce(got[-1])
    expected = [*(piece(x) for x in true[:4]), true[4]]
    names = ("out", "dq", "dk", "dv", "dsinks")
    pairs = zip(names, got, expected, strict=True)
    return {name: float((a - b).norm() / b.norm()) for name, a, b in pairs}


def main() -> None:
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS)
    # Of one key head, each rank gets a copy.
    found = [compare(rank, key_heads, window) for key_heads, window in ((2, None), (1, 6))]
    print(json.dumps(found))
    dist.barrier()
    ranks.end()


if __name__ == "__main__":
    main()
