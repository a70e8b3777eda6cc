"""What a planted fault is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mismatch_lab.captures.capture import Capture
from mismatch_lab.errors import InputError, choices
from mismatch_lab.schema import OptionValue

Kind = Literal["plugin", "options", "capture", "update"]
Severity = Literal["plain", "medium", "slight"]
Strength = float | str
Config = dict[str, Any]
"""A checkpoint's config.json as it stands."""

SEVERITIES: tuple[Severity, ...] = ("plain", "medium", "slight")


@dataclass(frozen=True)
class RunOptions:
    """What is asked of the run otherwise than in a clean one."""

    engine_args: dict[str, OptionValue] = field(default_factory=dict)
    trainer_args: dict[str, OptionValue] = field(default_factory=dict)
    sampling: dict[str, float] = field(default_factory=dict)
    """Fields of `schema.Sampling`."""
    checkpoint_edit: Callable[[Path], None] | None = None
    """Edits a copy of the checkpoint folder that both sides then load."""


ANY_ENGINE = ("vllm", "hf")
"""Engines that a fault's function knows where it says nothing of them."""


def everywhere(model_type: str, config: Config) -> bool:
    """Every architecture has the part."""
    del model_type, config
    return True


def nowhere(config: Config) -> str | None:
    """No module of the model is at fault."""
    del config
    return None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One defect as it happens in the field; exactly one of the functions of its kind is there.

    `plant`, `options`, `rewrite`, `copy` and `update` take the strength that `severities` names; a
    stronger severity breaks more: of the layers, each fed what it is fed in a sound model, or where
    no layer is at fault, of the distributions.
    """

    id: str
    about: str
    causes: tuple[str, ...]
    """Cause ids that are a right answer: the exact one first, more only where no observation can
    tell them apart."""
    why_several: str = ""
    family: str
    side: Literal["infer", "train", "sync", "both"]
    kind: Kind
    severities: Mapping[Severity, Strength]
    applies: Callable[[str, Config], bool] = everywhere
    """(model_type, config) -> does the architecture have the part that breaks?"""
    expected_location: Callable[[Config], str | None] = nowhere
    """The first affected module or tensor, by its transformers name."""
    engines: tuple[str, ...] = ANY_ENGINE
    """Engines it can be planted in, where the side is `infer` or `sync`."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """Dtypes in which the sides then differ."""
    plant: Callable[[Any, Any], None] | None = None
    """(model, strength): changes the side's torch module after its weights are loaded."""
    options: Callable[[Any], RunOptions] | None = None
    """strength -> options; also of other kinds, where the defect needs them to show."""
    rewrite: Callable[[Capture, Any], Capture] | None = None
    """(capture, strength) -> the capture as the broken glue stores it."""
    copy: Callable[[Capture, Capture, Any], Capture] | None = None
    """The same with what the other side recorded: (capture, the other's, strength)."""
    target: Literal["decode", "train"] | None = None
    """The capture that is rewritten."""
    source: Literal["decode", "train"] | None = None
    """The other side's, which `copy` is given."""
    update: Callable[[Any, Path], None] | None = None
    """(engine's model, checkpoint before the update): undoes what the sync did not deliver.
    The strength is the size of the update (`checkpoints.perturb`)."""
    low_rank: bool = False
    """The update is a low-rank adapter."""

    def __post_init__(self) -> None:
        present = {
            "plugin": self.plant is not None,
            "options": self.options is not None,
            "capture": self.target is not None
            and (self.rewrite is not None or (self.copy is not None and self.source is not None)),
            "update": self.update is not None,
        }
        if not present[self.kind]:
            raise ValueError(f"fault {self.id}: kind {self.kind} without its function")
        if set(self.severities) != set(SEVERITIES):
            raise ValueError(f"fault {self.id}: severities {sorted(self.severities)}")
        if not self.causes or (len(self.causes) > 1) != bool(self.why_several):
            raise ValueError(f"fault {self.id}: several causes need a reason, one needs none")


def by_id(*families: tuple[Fault, ...]) -> list[Fault]:
    """The rows of some modules in the order of their ids, in which the card has them."""
    return sorted((fault for family in families for fault in family), key=lambda fault: fault.id)


def one_of(table: Mapping[str, Fault], what: str, name: str) -> Fault:
    """The fault of that id in a table.

    Raises:
        InputError: no such fault; the message says which comes near.
    """
    if name not in table:
        listed = "mismatch-lab list faults" if what == "fault" else ""
        raise InputError(f"Unknown {what} {name!r}.", choices(name, table, listed))
    return table[name]
