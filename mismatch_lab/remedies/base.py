"""What a remedy is: for people, and as hooks for the trainer, which knows no fix by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.remedies.rollout_correction import Corrected
    from mismatch_lab.trainer.config import Correction, TrainConfig

Recorded = Literal["routing", "support"]
"""What an engine can record of each sampled token: its experts, the tokens it could have drawn."""

Hook = TypeVar("Hook")


@dataclass(frozen=True)
class Memory:
    """What a fix changes of the memory that the trainer needs, as the planner counts it."""

    attention: str = ""
    """Kernel of the attention; empty: as without the fix."""
    experts: str = ""
    """Kernel of the experts."""
    head_copy: bool = False
    """Whether a float32 copy of the head's weights and of their gradient is held."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One published fix."""

    id: str
    about: str
    formula: str
    source: str
    removes: tuple[str, ...] = ()
    """Causes that are gone with it."""
    softens: tuple[str, ...] = ()
    """Causes that stay, and do less harm with it."""
    engine: Literal["any", "vllm", "vllm in one process"] = "any"
    """Which engine it can be had with; the last reaches into the engine's model."""

    # The hooks, in the order in which a run comes to them.
    configure: Callable[[TrainConfig], TrainConfig] | None = None
    """What it changes of a run's settings."""
    refuse: Callable[[TrainConfig], None] | None = None
    """Raises InputError for settings that it cannot be had with."""
    memory: Memory = Memory()
    change_model: Callable[[Any], None] | None = None
    """What it changes of the trainer's transformers model, in place, after faults are planted."""
    start_engine: Callable[[], None] | None = None
    """In the engine's process, before its model is made."""
    change_engine: Callable[[Any], None] | None = None
    """What it changes of the engine's model, in place, before kernels repack its weights."""
    records: Recorded | None = None
    """What the engine records for it."""
    around_forward: Callable[[Any, Tensor], AbstractContextManager[None]] | None = None
    """Of the trainer's model and the batch's routing: the block in which every forward is made."""
    correct: Callable[[Tensor, Tensor, Tensor, Correction], Corrected] | None = None
    """Weights of the loss, of the trainer's and the engine's log-probs and a mask, [R, n] each."""
    old_logp: Callable[[Tensor, Tensor, int], Tensor] | None = None
    """Denominator of the ratio, of the current log-probs, the scored ones and the update."""

    @property
    def causes(self) -> tuple[str, ...]:
        """Those that it is good for."""
        return self.removes + self.softens


@dataclass(frozen=True)
class Fixes:
    """Those of a run, as one."""

    chosen: tuple[Remedy, ...]

    def configured(self, config: TrainConfig) -> TrainConfig:
        """The run's settings with what the fixes change of them."""
        for configure in _given(fix.configure for fix in self.chosen):
            config = configure(config)
        return config

    def check(self, config: TrainConfig) -> None:
        """Raise InputError for settings that one of them cannot be had with."""
        for refuse in _given(fix.refuse for fix in self.chosen):
            refuse(config)

    def change_model(self, model: Any) -> None:
        """Change the trainer's model in place."""
        for change in _given(fix.change_model for fix in self.chosen):
            change(model)

    def start_engine(self) -> None:
        """Called in the engine's process, before its model is made."""
        for start in _given(fix.start_engine for fix in self.chosen):
            start()

    def change_engine(self, model: Any) -> None:
        """Change the engine's model in place, before kernels repack its weights."""
        for change in _given(fix.change_engine for fix in self.chosen):
            change(model)

    @property
    def in_engine(self) -> tuple[str, ...]:
        """Ids of those that act in the engine's process."""
        acting = (f for f in self.chosen if f.start_engine is not None or f.change_engine)
        return tuple(fix.id for fix in acting)

    @property
    def records(self) -> frozenset[Recorded]:
        """What the engine has to record."""
        return frozenset(_given(fix.records for fix in self.chosen))

    def around_forward(self, model: Any, routing: Tensor) -> AbstractContextManager[Any]:
        """The block in which a forward of the trainer is made, given the engine's choices."""
        stack = ExitStack()
        for around in _given(fix.around_forward for fix in self.chosen):
            stack.enter_context(around(model, routing))
        return stack

    @property
    def correct(self) -> Callable[[Tensor, Tensor, Tensor, Correction], Corrected] | None:
        """See `Remedy.correct`; None: every token weighs the same."""
        return next(iter(_given(fix.correct for fix in self.chosen)), None)

    @property
    def old_logp(self) -> Callable[[Tensor, Tensor, int], Tensor] | None:
        """See `Remedy.old_logp`; None: what the run's loss says."""
        return next(iter(_given(fix.old_logp for fix in self.chosen)), None)

    @property
    def memory(self) -> Memory:
        """What all of them change of the trainer's memory."""
        parts = [fix.memory for fix in self.chosen]
        return Memory(
            attention=next((part.attention for part in parts if part.attention), ""),
            experts=next((part.experts for part in parts if part.experts), ""),
            head_copy=any(part.head_copy for part in parts),
        )


def _given(hooks: Iterable[Hook | None]) -> list[Hook]:
    return [hook for hook in hooks if hook is not None]
