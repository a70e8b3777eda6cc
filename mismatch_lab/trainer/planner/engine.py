"""The engine's memory on one of its devices; what vLLM needs for itself is not counted."""

from __future__ import annotations

from mismatch_lab.trainer.planner.device import GIB, Phase, Term
from mismatch_lab.trainer.planner.shapes import ModelShape

MAX_NUM_SEQS = 128
"""`rollout_worker`'s own default."""


def kv_bytes_per_token(shape: ModelShape, number_bytes: int) -> int:
    """Keys and values of all layers: 2 b K L."""
    return 2 * number_bytes * shape.keys * shape.layers


def cache_bytes(shape: ModelShape, number_bytes: int, rows: int, row_tokens: int) -> int:
    """Of so many rows at their full length; a sliding layer holds its window's tokens alone."""
    of_layer = 2 * number_bytes * shape.keys
    sliding = min(row_tokens, shape.window) * shape.sliding_layers
    return rows * of_layer * (sliding + row_tokens * (shape.layers - shape.sliding_layers))


def engine_phase(
    shape: ModelShape, number_bytes: int, rows: int, row_tokens: int, parallel: int
) -> Phase:
    """Weights in the run's dtype and the cache, both over `parallel` devices.

    Key heads that are fewer than the devices are repeated on them.
    """
    split = min(parallel, shape.kv_heads)
    cache = cache_bytes(shape, number_bytes, rows, row_tokens) / split
    return Phase(
        "engine",
        (
            Term("weights", number_bytes * shape.parameters / parallel / GIB),
            Term(f"cache of {rows} rows", cache / GIB),
        ),
    )
