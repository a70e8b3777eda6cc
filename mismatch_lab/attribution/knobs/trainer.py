"""Knobs of the trainer: batching, implementations, routing."""

from __future__ import annotations

from functools import partial

from mismatch_lab.attribution.knobs.base import DEFAULT, Knob, Trial, Turn, all_but, with_option
from mismatch_lab.attribution.knobs.precision import PRECISION, in_float32
from mismatch_lab.engines.options import FsdpOptions
from mismatch_lab.schema import OptionValue, RunSpec

ATTENTION = (
    "attention-sinks-dropped", "attention-softcap", "attention-scale", "sliding-window",
    "packing-leak", "batch-variance",
)  # fmt: skip
"""What an attention implementation gets wrong."""

EXPERTS = ("expert-bias", "expert-layout", "router-renormalisation", "routing-two-pass")
"""What an implementation of experts gets wrong."""

CHOICES = ("routing-flips", "router-bias", "routing-two-pass")
"""Wrong through which experts are chosen alone."""

NEAR_CHOICES = ("router-precision", "numerics-floor", "batch-variance")
"""Wrong through choices and beyond."""

LIGERS = (
    "norm-precision", "rope-precision", "rope-scaling", "logit-scale", "logit-softcap",
    "numerics-floor", "routing-flips", "unlisted",
)  # fmt: skip
"""What kernels of norms, rotary embedding, MLP and head can get wrong."""

TRANSFORMERS = ("fsdp", "hf")
"""Trainers with these options."""


def _option(run: RunSpec, name: str, wanted: OptionValue) -> Turn | None:
    if run.train.engine not in TRANSFORMERS:
        return None
    return with_option(run.train, name, wanted, getattr(FsdpOptions, name))


def _follow_reference(run: RunSpec) -> Turn | None:
    if run.train.engine not in TRANSFORMERS or not run.probe.capture.routing:
        return None
    return Turn(Trial(run.train, routing_from="ref"), DEFAULT)


PACKING_OFF = Knob(
    id="packing-off",
    does="every row in a sequence of its own",
    suspects=("train",),
    turn=partial(_option, name="packing", wanted=False),
    may_clear=frozenset({"packing-leak", "packing-boundary"}),
    keeps=all_but("packing-leak", "packing-boundary", "batch-variance"),
)

MICRO_BATCH_1 = Knob(
    id="micro-batch-1",
    does="micro-batches of one row",
    suspects=("train",),
    turn=partial(_option, name="micro_batch", wanted=1),
    may_clear=frozenset({"batch-variance", "packing-leak", "routing-two-pass"}),
    keeps=all_but("batch-variance", "packing-leak", "packing-boundary", "routing-two-pass"),
)

ATTENTION_EAGER = Knob(
    id="attention-eager",
    does="eager attention",
    suspects=("train",),
    turn=partial(_option, name="attn_implementation", wanted="eager"),
    may_clear=frozenset(ATTENTION),
    keeps=all_but(*ATTENTION, *PRECISION),
)

EXPERTS_EAGER = Knob(
    id="experts-eager",
    does="eager experts",
    suspects=("train",),
    turn=partial(_option, name="experts_implementation", wanted="eager"),
    may_clear=frozenset(EXPERTS),
    keeps=all_but(*EXPERTS, *PRECISION),
)

LIGER_OFF = Knob(
    id="liger-off",
    does="transformers' own modules in place of Liger's kernels",
    suspects=("train",),
    turn=partial(_option, name="liger", wanted=False),
    may_clear=frozenset(LIGERS),
    keeps=all_but(*LIGERS, *PRECISION),
)

AUTOCAST_OFF = Knob(
    id="autocast-off",
    does="no autocast around the forward",
    suspects=("train",),
    turn=partial(_option, name="autocast", wanted=False),
    may_clear=PRECISION,
    keeps=all_but(*PRECISION),
)

ROUTING_REPLAY = Knob(
    id="routing-replay",
    does="the experts that the reference chose",
    suspects=("train",),
    turn=_follow_reference,
    clears=frozenset(CHOICES),
    may_clear=frozenset(NEAR_CHOICES),
    keeps=all_but(*CHOICES, *NEAR_CHOICES),
)

TRAINER_FLOAT32 = Knob(
    id="trainer-float32",
    does="everything in float32",
    suspects=("train",),
    turn=lambda run: in_float32(run.train),
    may_clear=PRECISION,
    keeps=all_but(*PRECISION),
)
