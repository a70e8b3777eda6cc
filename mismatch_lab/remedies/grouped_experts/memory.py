"""What each way to run a layer's experts allocates and keeps, in closed form.

b bytes a number, T tokens, E experts of which k run, S = T k slots, H hidden, I intermediate.
Backward needs, for every row that was computed, the input of both matmuls (H, I), what the gate
works on (2I, and the clamped gate, its sigmoid, their product and up + 1: 4I), the output before
it is weighted (H): 2H + 7I numbers. A way differs by its rows, and by what else it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class LayerShape:
    """The experts of one layer, and how many such layers a model has."""

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    layers: int = 1
    number_bytes: int = 2

    @property
    def row(self) -> int:
        """Bytes that backward needs of one row."""
        return self.number_bytes * (2 * self.hidden + 7 * self.intermediate)

    @property
    def weight_bytes(self) -> int:
        """Of the experts of one layer, without biases."""
        return self.number_bytes * self.experts * self.expert_numbers

    @property
    def expert_numbers(self) -> int:
        """In the two matrices of one expert."""
        return 3 * self.hidden * self.intermediate


GPT_OSS_20B = LayerShape(hidden=2880, intermediate=2880, experts=32, top_k=4, layers=24)
GPT_OSS_120B = LayerShape(hidden=2880, intermediate=2880, experts=128, top_k=4, layers=36)


def repeated_bytes(shape: LayerShape, tokens: int) -> int:
    """`hidden_states.repeat(num_experts, 1)` of transformers 4.55 to 4.57 in eval mode: b E T H.

    Line 123 of modeling_gpt_oss.py of 4.56.0, the line of the published 180 GiB.
    """
    return shape.number_bytes * shape.experts * tokens * shape.hidden


def _eager(shape: LayerShape, tokens: int) -> int:
    """`index_add_` keeps its source too; each slot has a routing weight and its two indices."""
    slots = tokens * shape.top_k
    return slots * (shape.row + shape.number_bytes * (shape.hidden + 1) + 2 * 8)


def _grouped(shape: LayerShape, tokens: int) -> int:
    """A slot's weight, its place when sorted and back, its token, its expert; ends of groups."""
    slots = tokens * shape.top_k
    return slots * (shape.row + shape.number_bytes + 4 * 8) + 4 * shape.experts


def _batched(shape: LayerShape, tokens: int) -> int:
    """Every slot has a copy of its expert."""
    slots = tokens * shape.top_k
    return slots * (shape.row + shape.number_bytes * shape.expert_numbers)


def _repeat(shape: LayerShape, tokens: int) -> int:
    """Every expert sees every token; a routing weight for each."""
    rows = tokens * shape.experts
    return rows * (shape.row + shape.number_bytes)


def _ours(shape: LayerShape, tokens: int) -> int:
    """The order of the slots."""
    return tokens * shape.top_k * 8


KEPT: dict[str, Callable[[LayerShape, int], int]] = {
    "eager": _eager,
    "grouped_mm": _grouped,
    "batched_mm": _batched,
    "repeat": _repeat,
    "grouped-experts": _ours,
}


def kept_bytes(way: str, shape: LayerShape, tokens: int) -> int:
    """What one layer's experts keep from forward to backward, beyond inputs and parameters.

    Args:
        way: `eager`, `grouped_mm` and `batched_mm` of transformers 5, `repeat` of 4.56 in eval
            mode, `grouped-experts` of this package.
        shape: of the layer, its gate as in GPT-OSS.
        tokens: of the micro-batch.
    """
    return KEPT[way](shape, tokens)


def largest_bytes(way: str, shape: LayerShape, tokens: int) -> int:
    """The largest tensor that a forward pass makes, where experts are chosen equally often."""
    slots, b = tokens * shape.top_k, shape.number_bytes
    widest = max(shape.hidden, 2 * shape.intermediate)
    of_expert = b * -(-slots // shape.experts) * widest
    sizes = {
        "eager": max(b * tokens * shape.hidden, of_expert, 8 * slots * shape.experts),
        "grouped_mm": b * slots * widest,
        "batched_mm": b * slots * 2 * shape.hidden * shape.intermediate,
        "repeat": b * shape.experts * tokens * widest,
        "grouped-experts": max(4 * tokens * shape.hidden, of_expert),
    }
    return sizes[way]
