"""What an experiment is: one thing about a side set otherwise, to see what an error does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.hypotheses import SuspectName
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.engines.settings import held
from mismatch_lab.schema import OptionValue, RunSpec, Sampling, SideSpec

ASKED, PATCHED, DEFAULT = 0, 1, 2
"""How likely it is to matter: the user set it; the user's plugin may have; nobody touched it."""


@dataclass(frozen=True)
class Trial:
    """A side with one thing changed, and what is asked of it."""

    spec: SideSpec
    sampling: Sampling | None = None
    """Samples the run's prompts anew and scores them again; None scores the run's own tokens."""
    routing_from: str | None = None
    """Capture of the run whose expert choices the routers follow."""
    train_mode: bool = False


@dataclass(frozen=True)
class Prepared:
    """An experiment as it is made in one run."""

    trial: Trial
    likely: int
    """ASKED, PLANTED or DEFAULT."""
    slower: float = 1.0
    """Seconds it takes, in those that the side took at first."""


@dataclass(frozen=True)
class Experiment:
    """One thing that can be set otherwise, and what each cause predicts of that."""

    id: str
    changes: str
    """For people, after "trainer with": "micro-batches of one row"."""
    suspects: tuple[SuspectName, ...]
    prepared: Callable[[RunSpec], Prepared | None]
    """None where it cannot be made, or the side stands so already."""
    clears: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect goes away, wherever the defect sits."""
    may_clear: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect goes away if this very setting brings them about. Code that was patched
    beside the setting keeps them: that nothing changes then rules nothing out."""
    leaves: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect stays as large, whatever brings them about."""

    @property
    def side(self) -> Literal["infer", "train"]:
        """The side it belongs to."""
        return "train" if self.suspects == ("train",) else "infer"

    @property
    def cures(self) -> frozenset[str]:
        """Causes it takes away, surely or perhaps."""
        return self.clears | self.may_clear


JUDGED = frozenset(
    {
        # semantics
        "raw-logprobs-temperature", "sampler-truncation", "sampling-penalties", "logit-scale",
        "logit-softcap", "vocab-padding", "partial-normaliser", "impossible-token", "unlisted",
        # precision
        "lm-head-precision", "logprob-precision", "router-precision", "norm-precision",
        "tf32-products", "numerics-floor",
        # tokens
        "shift-by-one", "packing-leak", "packing-boundary", "terminal-token", "retokenisation",
        "prompt-template", "sentinel-values",
        # attention
        "attention-sinks-dropped", "sliding-window", "attention-softcap", "attention-scale",
        "rope-precision", "rope-theta", "rope-scaling", "decode-prefill-divergence",
        # cache
        "kv-cache-quantisation", "stale-prefix-cache", "stale-graph",
        # moe
        "router-renormalisation", "router-bias", "routing-two-pass", "routing-flips",
        "expert-layout", "expert-bias",
        # weights
        "stale-tensor", "stale-weights", "adapter-not-delivered", "untied-head",
        "weight-quantisation",
        # trainer
        "dropout-active", "batch-variance",
        # record
        "copied-logprobs", "missing-logprobs", "wrong-candidate",
    }
)  # fmt: skip
"""Causes that every experiment was gone through for: what it says of each is known. A cause that is
not here is known to those experiments alone that name it, and stays with none."""


def judged_but(*causes: str) -> frozenset[str]:
    """Every other cause that experiments were gone through for.

    Raises:
        KeyError: a cause is not in the catalogue.
    """
    for cause in causes:
        CAUSES[cause]
    return JUDGED - frozenset(causes)


def with_option(
    side: SideSpec, name: str, wanted: OptionValue, default: OptionValue
) -> Prepared | None:
    """An engine option set to `wanted`; None where it stands so.

    Args:
        side: whose option.
        name: the option.
        wanted: the value to try.
        default: what holds where the user gave none.
    """
    if side.args.get(name, default) == wanted:
        return None
    changed = side.model_copy(update={"args": {**side.args, name: wanted}})
    return Prepared(Trial(changed), ASKED if name in side.args else DEFAULT)


def plain(run: RunSpec, name: str, wanted: OptionValue) -> Prepared | None:
    """An option of the engine set to `wanted`; None where it has none such, or where it stands so:
    set by the user, or by the engine itself on this machine.
    """
    in_force = held(run.infer, on_gpu=bool(run.provenance.accelerators))
    return with_option(run.infer, name, wanted, in_force.get(name, wanted))


PRECISION = frozenset(
    {
        "lm-head-precision", "logprob-precision", "router-precision", "norm-precision",
        "rope-precision", "numerics-floor", "routing-flips", "routing-two-pass", "batch-variance",
    }
)  # fmt: skip
"""Causes that are rounding, or that rounding sets off."""


OF_DTYPE = ("param_dtype", "master_dtype")
"""Options of a trainer that would hold on to another dtype."""


def in_float32(side: SideSpec) -> Prepared | None:
    """None for a side that is in float32 already."""
    if side.dtype == "float32":
        return None
    args = {name: value for name, value in side.args.items() if name not in OF_DTYPE}
    wide = side.model_copy(update={"dtype": "float32", "args": args})
    return Prepared(Trial(wide), DEFAULT, THRESHOLDS.float32_slower)
