"""The trainer's memory on one device, phase by phase; as `policy.py` and FSDP2 (torch 2.13) do it.

b bytes a number of the compute dtype. Masters, their gradients and both states of AdamW are
float32. Each decoder layer is a group of FSDP2; what is left (embedding, last norm, head) is the
root group, which stays gathered from its forward to its backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mismatch_lab.trainer.planner.activations import (
    WIDE,
    Pass,
    kept_of_layers,
    kept_of_root,
    work_bytes,
)
from mismatch_lab.trainer.planner.shapes import sharded_numbers

GIB = 2**30
FEWEST_TOKENS = 16
CHUNK_BYTES = 96 << 20
"""`engines.chunked_logp.CHUNK_BYTES`, whose module imports torch; a test holds them together."""


@dataclass(frozen=True)
class Term:
    """One row of the table."""

    what: str
    gib: float


@dataclass(frozen=True)
class Phase:
    """Terms that are there at the same time."""

    name: str
    terms: tuple[Term, ...]

    @property
    def total_gib(self) -> float:
        return sum(term.gib for term in self.terms)


@dataclass(frozen=True)
class Sharding:
    """Numbers of each group, on one rank and gathered (with FSDP2's padding)."""

    run: Pass
    ranks: int
    reference: bool = False
    """A second model is held for the KL penalty."""

    @property
    def layer_shard(self) -> int:
        return sharded_numbers(self.run.shape.layer, self.ranks)

    @property
    def root_shard(self) -> int:
        return sharded_numbers(self.run.shape.root, self.ranks)

    @property
    def shard(self) -> int:
        return self.run.shape.layers * self.layer_shard + self.root_shard

    @property
    def layer(self) -> int:
        return self.ranks * self.layer_shard

    @property
    def root(self) -> int:
        return self.ranks * self.root_shard


def held(sharding: Sharding) -> list[Term]:
    """Between steps: masters 4, AdamW 8 bytes a number; the reference's masters and its root."""
    found = [
        _term("weights, float32", WIDE * sharding.shard),
        _term("AdamW's two states", 2 * WIDE * sharding.shard),
    ]
    if sharding.reference:
        b = sharding.run.number_bytes
        found.append(_term("reference model", WIDE * sharding.shard + b * sharding.root))
    return found


def load(sharding: Sharding) -> Phase:
    """Each group is moved to the device whole, in float32, and then cut.

    Several ranks get it from rank 0 tensor by tensor, which is less.
    """
    group = max(sharding.run.shape.parameters_of_groups)
    terms = [*held(sharding)[:1], _term("one group whole, float32", WIDE * group)]
    return Phase("load", tuple(terms))


def head(sharding: Sharding, head_fp32: bool) -> Phase:
    """The last chunk of logits, when all activations are kept: forward, or backward's first part.

    A chunk has logits (b), log-probs, probabilities and entropies (12), each made again in the
    backward pass, when the gradient of the chunks before it is there; then it is left with b + 8,
    and its own gradient of the weights is added. `fp32-head` holds a float32 copy of the weights
    and of their gradient.
    """
    run, b = sharding.run, sharding.run.number_bytes
    vocabulary = run.shape.vocabulary
    rows = max(FEWEST_TOKENS, CHUNK_BYTES // WIDE // vocabulary)
    chunk = min(rows, run.tokens)
    weights = vocabulary * run.shape.hidden
    before = b * weights if run.tokens > chunk else 0
    copies = 2 * WIDE * weights if head_fp32 and b < WIDE else 0
    made = (chunk * vocabulary * (b + 3 * WIDE), before)
    added = (chunk * vocabulary * (b + 2 * WIDE), before + b * weights)
    logits, gradient = max(made, added, key=sum)
    layers = run.shape.layers
    kept = kept_of_layers(run, layers) - (_layer_again(run) if run.checkpointed else 0)
    terms = [
        *_always(sharding),
        _term("activations kept", kept + kept_of_root(run)),
        _term("chunk of logits", logits),
        _term("gradient of the head", gradient + copies),
        _prefetched(sharding),
    ]
    return Phase("head", tuple(terms))


def backward(sharding: Sharding) -> Phase:
    """The last layer's backward, or the one before it, whichever needs more.

    From the second on the reduce-scatter's input of the layer after it is still there, in float32;
    while a layer is worked on, the one before it is gathered (more than one rank).
    """
    phases = [_backward_of(sharding, sharding.run.shape.layers, after=0)]
    if sharding.run.shape.layers > 1:
        before = sharding.run.shape.layers - 1
        phases.append(_backward_of(sharding, before, after=sharding.layer))
    return max(phases, key=lambda phase: phase.total_gib)


def _backward_of(sharding: Sharding, layers: int, after: int) -> Phase:
    run, b = sharding.run, sharding.run.number_bytes
    terms = [
        *_always(sharding),
        _term("activations kept", kept_of_layers(run, layers)),
        _term("work of one layer", work_bytes(run)),
        _term("layer gathered", b * sharding.layer),
        _term("gradient of the layer", b * sharding.layer),
        _term("reduce-scatter, float32", WIDE * after),
        _term("gradient of the head", b * run.shape.vocabulary * run.shape.hidden),
        _prefetched(sharding),
    ]
    return Phase("backward", tuple(terms))


def root_backward(sharding: Sharding) -> Phase:
    """At the end of backward: gradients of the root, and their reduce-scatter's input."""
    b = sharding.run.number_bytes
    terms = [
        *held(sharding),
        _term("gradients, float32", WIDE * sharding.shard),
        _term("root gathered", b * sharding.root),
        _term("gradient of the root", b * sharding.root),
        _term("reduce-scatter, float32", WIDE * max(sharding.root, sharding.layer)),
    ]
    return Phase("end of backward", tuple(terms))


def optimizer(sharding: Sharding, device: str) -> Phase:
    """AdamW over lists of tensors, as torch does on CUDA: a root of the second moments each."""
    terms = [*held(sharding), _term("gradients, float32", WIDE * sharding.shard)]
    if device == "cuda":
        terms.append(_term("AdamW's square roots", WIDE * sharding.shard))
    return Phase("optimizer", tuple(terms))


def _always(sharding: Sharding) -> Iterable[Term]:
    """From the second micro-batch on every gradient is there."""
    return (
        *held(sharding),
        _term("gradients, float32", WIDE * sharding.shard),
        _term("root gathered", sharding.run.number_bytes * sharding.root),
    )


def _prefetched(sharding: Sharding) -> Term:
    """The next layer's all-gather is under way: one rank has none."""
    several = sharding.ranks > 1
    return _term("next layer gathered", sharding.run.number_bytes * sharding.layer * several)


def _layer_again(run: Pass) -> int:
    """What a checkpointed layer keeps once it is computed again; in the forward it is not there."""
    return kept_of_layers(run, 1) - run.tokens * run.number_bytes * run.shape.hidden


def _term(what: str, size: float) -> Term:
    return Term(what, size / GIB)
