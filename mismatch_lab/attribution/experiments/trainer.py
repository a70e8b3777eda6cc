"""Experiments on the trainer: batching, implementations, routing; and, where a plugin patched it,
one kind of module put back as transformers has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mismatch_lab.attribution.experiments.base import (
    DEFAULT,
    PATCHED,
    PRECISION,
    Experiment,
    Prepared,
    Trial,
    in_float32,
    judged_but,
    with_option,
)
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


def _option(run: RunSpec, name: str, wanted: OptionValue) -> Prepared | None:
    if run.train.engine not in TRANSFORMERS:
        return None
    return with_option(run.train, name, wanted, getattr(FsdpOptions, name))


def _follow_reference(run: RunSpec) -> Prepared | None:
    if run.train.engine not in TRANSFORMERS or not run.probe.capture.routing:
        return None
    return Prepared(Trial(run.train, routing_from="ref"), DEFAULT)


PACKING_OFF = Experiment(
    id="packing-off",
    changes="every row in a sequence of its own",
    suspects=("train",),
    prepared=partial(_option, name="packing", wanted=False),
    may_clear=frozenset({"packing-leak", "packing-boundary"}),
    leaves=judged_but("packing-leak", "packing-boundary", "batch-variance"),
)

MICRO_BATCH_1 = Experiment(
    id="micro-batch-1",
    changes="micro-batches of one row",
    suspects=("train",),
    prepared=partial(_option, name="micro_batch", wanted=1),
    may_clear=frozenset({"batch-variance", "packing-leak", "routing-two-pass"}),
    leaves=judged_but("batch-variance", "packing-leak", "packing-boundary", "routing-two-pass"),
)

ATTENTION_EAGER = Experiment(
    id="attention-eager",
    changes="eager attention",
    suspects=("train",),
    prepared=partial(_option, name="attn_implementation", wanted="eager"),
    may_clear=frozenset(ATTENTION),
    leaves=judged_but(*ATTENTION, *PRECISION),
)

EXPERTS_EAGER = Experiment(
    id="experts-eager",
    changes="eager experts",
    suspects=("train",),
    prepared=partial(_option, name="experts_implementation", wanted="eager"),
    may_clear=frozenset(EXPERTS),
    leaves=judged_but(*EXPERTS, *PRECISION),
)

LIGER_OFF = Experiment(
    id="liger-off",
    changes="transformers' own modules in place of Liger's kernels",
    suspects=("train",),
    prepared=partial(_option, name="liger", wanted=False),
    may_clear=frozenset(LIGERS),
    leaves=judged_but(*LIGERS, *PRECISION),
)

AUTOCAST_OFF = Experiment(
    id="autocast-off",
    changes="no autocast around the forward",
    suspects=("train",),
    prepared=partial(_option, name="autocast", wanted=False),
    may_clear=PRECISION,
    leaves=judged_but(*PRECISION),
)

ROUTING_REPLAY = Experiment(
    id="routing-replay",
    changes="the experts that the reference chose",
    suspects=("train",),
    prepared=_follow_reference,
    clears=frozenset(CHOICES),
    may_clear=frozenset(NEAR_CHOICES),
    leaves=judged_but(*CHOICES, *NEAR_CHOICES),
)

TRAINER_FLOAT32 = Experiment(
    id="trainer-float32",
    changes="everything in float32",
    suspects=("train",),
    prepared=lambda run: in_float32(run.train),
    may_clear=PRECISION,
    leaves=judged_but(*PRECISION),
)


CONFIG = "config"
"""Masks and caps are read from the configuration at every forward."""

ROTARY_CAUSES = ("rope-precision", "rope-theta", "rope-scaling")
ATTENTION_CAUSES = (
    "attention-sinks-dropped", "sliding-window", "attention-softcap", "attention-scale",
    "tf32-products",
)  # fmt: skip
HEAD_CAUSES = ("logit-scale", "logit-softcap", "vocab-padding", "lm-head-precision")
EXPERT_CAUSES = (
    "router-precision", "router-renormalisation", "router-bias", "expert-bias", "expert-layout",
    "routing-two-pass", "tf32-products",
)  # fmt: skip


def stock(run: RunSpec, modules: tuple[str, ...]) -> Prepared | None:
    """Modules put back after the plugin ran; None where there is no plugin."""
    if run.train.plugin is None:
        return None
    return Prepared(Trial(run.train.model_copy(update={"stock": modules})), PATCHED)


def _experiment(
    part: str, modules: tuple[str, ...], causes: Iterable[str], beside: Iterable[str] = ()
) -> Experiment:
    """Args: `beside` are causes that these modules may bring about as well."""
    return Experiment(
        id=f"stock-{part}",
        changes=f"stock {', '.join(modules)}",
        suspects=("train",),
        prepared=lambda run: stock(run, modules),
        may_clear=frozenset(causes),
        leaves=judged_but(*causes, *beside, "routing-flips", "batch-variance", "dropout-active"),
    )


def stock_module(name: str) -> Experiment:
    """One module alone put back, for a defect that has no name but a place."""
    return _experiment(name, (name, CONFIG), ("unlisted",))


STOCK_ATTENTION = _experiment("attention", ("*.self_attn", "*.attn", CONFIG), ATTENTION_CAUSES)
STOCK_ROTARY = _experiment(
    "rotary", ("*rotary_emb*", "*.self_attn", CONFIG), ROTARY_CAUSES, beside=ATTENTION_CAUSES
)
STOCK_ROTARY_TABLES = _experiment("rotary-tables", ("*rotary_emb*",), ROTARY_CAUSES)
STOCK_HEAD = _experiment("head", ("lm_head", CONFIG), HEAD_CAUSES)
STOCK_NORMS = _experiment("norms", ("*norm*",), ("norm-precision",))
STOCK_EXPERTS = _experiment("experts", ("*.mlp", CONFIG), EXPERT_CAUSES)


def _no_dropout(run: RunSpec) -> Prepared | None:
    quiet = run.train.model_copy(update={"no_dropout": True})
    return Prepared(Trial(quiet), PATCHED)


NO_DROPOUT = Experiment(
    id="no-dropout",
    changes="dropout disabled",
    suspects=("train",),
    prepared=_no_dropout,
    clears=frozenset({"dropout-active"}),
    leaves=judged_but("dropout-active"),
)
