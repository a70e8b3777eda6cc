"""What a knob is: one thing about a side that can be set otherwise, to see what an error does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.attribution.hypotheses import Suspect
from mismatch_lab.engines.settings import held
from mismatch_lab.schema import OptionValue, RunSpec, Sampling, SideSpec

ASKED, PLANTED, DEFAULT = 0, 1, 2
"""How likely a knob is the one: the user set it; the user's plugin may have; nobody touched it."""


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
class Turn:
    """A knob as it can be turned in one run."""

    trial: Trial
    likely: int
    """ASKED, PLANTED or DEFAULT."""
    slower: float = 1.0
    """Seconds it takes, in those that the side took at first."""


@dataclass(frozen=True)
class Knob:
    """One thing that can be set otherwise, and what each cause predicts of that."""

    id: str
    does: str
    """For people, after "trainer with": "micro-batches of one row"."""
    suspects: tuple[Suspect, ...]
    turn: Callable[[RunSpec], Turn | None]
    """None where it cannot be turned, or stands so already."""
    clears: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect goes away, wherever the defect sits."""
    may_clear: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect goes away if this very setting brings them about. Code that was patched
    beside the setting keeps them: that nothing changes then rules nothing out."""
    keeps: frozenset[str] = field(default_factory=frozenset)
    """Causes whose effect stays as large, whatever brings them about."""

    @property
    def side(self) -> Literal["infer", "train"]:
        """The side it belongs to."""
        return "train" if self.suspects == ("train",) else "infer"

    @property
    def cures(self) -> frozenset[str]:
        """Causes it takes away, surely or perhaps."""
        return self.clears | self.may_clear


def all_but(*causes: str) -> frozenset[str]:
    """Every other cause of the catalogue.

    Raises:
        KeyError: a cause is not in the catalogue.
    """
    for cause in causes:
        CAUSES[cause]
    return frozenset(CAUSES) - frozenset(causes)


def with_option(
    side: SideSpec, name: str, wanted: OptionValue, default: OptionValue
) -> Turn | None:
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
    return Turn(Trial(changed), ASKED if name in side.args else DEFAULT)


def plain(run: RunSpec, name: str, wanted: OptionValue) -> Turn | None:
    """An option of the engine set to `wanted`; None where it has none such, or where it stands so:
    set by the user, or by the engine itself on this machine.
    """
    in_force = held(run.infer, on_gpu=bool(run.provenance.accelerators))
    return with_option(run.infer, name, wanted, in_force.get(name, wanted))
