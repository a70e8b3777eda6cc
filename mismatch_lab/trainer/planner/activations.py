"""Bytes that a micro-batch keeps from forward to backward, and needs while a layer is worked on.

b bytes a number of the compute dtype, T tokens, n tokens of a row, H hidden, I intermediate, Q and
K numbers in a token's queries and keys. Each count below is what autograd saves of transformers
5.19's modules, seen with `saved_tensors_hooks` in float32 and bfloat16. Rows are taken as full, so
that there is no padding, and no mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.remedies.grouped_experts.memory import (
    GIB,
    KEPT,
    LayerShape,
    kept_bytes,
    largest_bytes,
)
from mismatch_lab.trainer.planner.shapes import ModelShape

WIDE = 4
"""Bytes of float32: norms, log-sum-exp."""
INDEX = 8


@dataclass(frozen=True)
class Pass:
    """One forward and backward."""

    shape: ModelShape
    rows: int
    row_tokens: int
    number_bytes: int
    """b"""
    attention: str
    """`eager`, or another, which keeps no scores."""
    experts: str
    """`grouped_mm` or `grouped-experts`."""
    checkpointed: bool = False
    """Layers keep their input alone and are computed again."""

    @property
    def tokens(self) -> int:
        return self.rows * self.row_tokens

    @property
    def expert_layers(self) -> LayerShape:
        """Where the model has experts."""
        s = self.shape
        return LayerShape(s.hidden, s.intermediate, s.experts, s.top_k, s.layers, self.number_bytes)


def norm_bytes(shape: ModelShape, width: int, b: int) -> int:
    """Of one RMS norm and token: input in float32, normalised, output, and its scale.

    GPT-OSS multiplies by the weight before it goes back to b: its normalised is float32.
    """
    normalised = WIDE if shape.family == "gpt_oss" else b
    return width * (WIDE + normalised + b) + WIDE


def attention_bytes(run: Pass) -> int:
    """Of one layer and token. Flash: queries, keys, values, output, log-sum-exp.

    Eager (GPT-OSS): queries, repeated keys and values, output, probabilities over n keys and the
    sink, place of the maximum. Norms of queries and keys: input and normalised.
    """
    shape, b = run.shape, run.number_bytes
    if run.attention == "eager":
        held = b * (4 * shape.queries + shape.heads * (run.row_tokens + 1)) + INDEX * shape.heads
    else:
        held = b * 2 * (shape.queries + shape.keys) + WIDE * shape.heads
    if shape.qk_norm:
        held += (WIDE + b) * (shape.queries + shape.keys) + WIDE * (shape.heads + shape.kv_heads)
    return held


def mixer_bytes(run: Pass) -> int:
    """Of one layer: dense, 4I (gate, up, its activation, their product) a token.

    Experts: `grouped_experts.memory` and the router's scores. A slot of Qwen3-MoE keeps 2H + 4I:
    its gate has no clamps.
    """
    shape, b = run.shape, run.number_bytes
    if not shape.experts:
        return run.tokens * 4 * b * shape.intermediate
    kept = kept_bytes(run.experts, run.expert_layers, run.tokens)
    router = run.tokens * shape.top_k * (INDEX + b)
    if shape.family == "qwen3_moe":
        router += run.tokens * shape.experts * WIDE
        if run.experts == "grouped_mm":
            kept -= run.tokens * shape.top_k * 3 * b * shape.intermediate
    return kept + router


def layer_bytes(run: Pass) -> int:
    """Of one layer, all tokens."""
    norms = 2 * norm_bytes(run.shape, run.shape.hidden, run.number_bytes)
    return run.tokens * (norms + attention_bytes(run)) + mixer_bytes(run)


def kept_of_layers(run: Pass, layers: int) -> int:
    """Of the first so many layers; checkpointed, their inputs and all that the last one keeps."""
    if not run.checkpointed:
        return layers * layer_bytes(run)
    return layers * run.tokens * run.number_bytes * run.shape.hidden + layer_bytes(run)


def kept_of_root(run: Pass) -> int:
    """Last norm, and its output as the head's chunks hold it."""
    hidden, b = run.shape.hidden, run.number_bytes
    return run.tokens * (norm_bytes(run.shape, hidden, b) + b * hidden)


def work_bytes(run: Pass) -> int:
    """Gradients inside one layer while its backward runs, beyond what is freed as it is used.

    The stream's own, 2H a token; of the mixer's output and of its gate's, H + I a slot or token.
    Eager attention comes when the mixer's share is gone: gradients of probabilities and of
    scores. `grouped-experts`: input's and output's in float32, and the slots of one expert
    (twice the mean, no more than `ROWS` at once) with 2H + 10I numbers each.
    """
    shape, b = run.shape, run.number_bytes
    slots = run.tokens * max(shape.top_k, 1)
    stream = 2 * b * run.tokens * shape.hidden
    if run.experts == "grouped-experts" and shape.experts:
        rows = min(2 * slots // shape.experts, PIECE)
        piece = rows * b * (2 * shape.hidden + 10 * shape.intermediate)
        mixer = 2 * WIDE * run.tokens * shape.hidden + piece
    else:
        mixer = slots * b * (shape.hidden + shape.intermediate)
    if run.attention != "eager":
        return stream + mixer
    scores = b * run.tokens * shape.heads * (run.row_tokens + 1)
    return stream + max(mixer, 2 * scores - mixer_bytes(run))


PIECE = 8192
"""`grouped_experts.function.ROWS`; a test holds them together."""


ABOUT = {"repeat": " (transformers 4.55 to 4.57, eval)"}
"""Of ways that not every transformers has."""


@dataclass(frozen=True)
class ExpertWay:
    """One way to run the experts of a micro-batch, by formula."""

    way: str
    largest_gib: float
    """The largest tensor of one layer's forward pass."""
    kept_gib: float
    """From forward to backward, of all layers, without checkpointed activations."""
    used: bool
    """By this run."""


def expert_ways(run: Pass) -> tuple[ExpertWay, ...]:
    """Of GPT-OSS, whose gate the formulas count; empty for other models."""
    if run.shape.family != "gpt_oss":
        return ()
    layer = run.expert_layers
    return tuple(
        ExpertWay(
            way,
            largest_bytes(way, layer, run.tokens) / GIB,
            kept_bytes(way, layer, run.tokens) * layer.layers / GIB,
            way == run.experts,
        )
        for way in KEPT
    )
