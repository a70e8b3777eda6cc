"""Knobs of a patched trainer: one kind of module put back as transformers has it."""

from __future__ import annotations

from collections.abc import Iterable

from mismatch_lab.attribution.knobs.base import PLANTED, Knob, Trial, Turn, all_but
from mismatch_lab.schema import RunSpec

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


def stock(run: RunSpec, modules: tuple[str, ...]) -> Turn | None:
    """Modules put back after the plugin ran; None where there is no plugin."""
    if run.train.plugin is None:
        return None
    return Turn(Trial(run.train.model_copy(update={"stock": modules})), PLANTED)


def _knob(
    part: str, modules: tuple[str, ...], causes: Iterable[str], beside: Iterable[str] = ()
) -> Knob:
    """Args: `beside` are causes that these modules may bring about as well."""
    return Knob(
        id=f"stock-{part}",
        does=f"stock {', '.join(modules)}",
        suspects=("train",),
        turn=lambda run: stock(run, modules),
        may_clear=frozenset(causes),
        keeps=all_but(*causes, *beside, "routing-flips", "batch-variance", "dropout-active"),
    )


def stock_module(name: str) -> Knob:
    """One module alone put back, for a defect that has no name but a place."""
    return _knob(name, (name, CONFIG), ("unlisted",))


STOCK_ATTENTION = _knob("attention", ("*.self_attn", "*.attn", CONFIG), ATTENTION_CAUSES)
STOCK_ROTARY = _knob(
    "rotary", ("*rotary_emb*", "*.self_attn", CONFIG), ROTARY_CAUSES, beside=ATTENTION_CAUSES
)
STOCK_ROTARY_TABLES = _knob("rotary-tables", ("*rotary_emb*",), ROTARY_CAUSES)
STOCK_HEAD = _knob("head", ("lm_head", CONFIG), HEAD_CAUSES)
STOCK_NORMS = _knob("norms", ("*norm*",), ("norm-precision",))
STOCK_EXPERTS = _knob("experts", ("*.mlp", CONFIG), EXPERT_CAUSES)


def _no_dropout(run: RunSpec) -> Turn | None:
    quiet = run.train.model_copy(update={"no_dropout": True})
    return Turn(Trial(quiet), PLANTED)


NO_DROPOUT = Knob(
    id="no-dropout",
    does="dropout disabled",
    suspects=("train",),
    turn=_no_dropout,
    clears=frozenset({"dropout-active"}),
    keeps=all_but("dropout-active"),
)
