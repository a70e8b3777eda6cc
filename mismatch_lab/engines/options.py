"""Engine options from `--engine-arg K=V`: known names only, with the type of the default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue

Options = TypeVar("Options")


def parse_options(kind: type[Options], engine: str, given: dict[str, OptionValue]) -> Options:
    """Build the options dataclass `kind` from what the user gave.

    Raises:
        InputError: an unknown name, or a value of another type than the default's.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(
                f"Engine {engine} has no option {name!r}.", f"It has: {', '.join(sorted(known))}."
            )
        values[name] = _typed(engine, name, value, known[name].default)
    return kind(**values)


def _typed(engine: str, name: str, value: OptionValue, default: Any) -> OptionValue:
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:  # True would pass for an int
        raise InputError(
            f"Option {name} of engine {engine} wants {wanted.__name__}, not {value!r}.",
            f"Its default is {default!r}.",
        )
    return value


@dataclass(frozen=True)
class TorchOptions:
    """Options of the engines that run transformers models (`fsdp`, `hf`)."""

    attn_implementation: str = "auto"
    """`auto` is the model's own choice; else eager, sdpa, flash_attention_2, …"""
    experts_implementation: str = "auto"
    """`auto` is the model's own choice; else eager, batched_mm, grouped_mm."""
    micro_batch: int = 4
    """Sequences per forward."""
    device: str = "auto"
    """`auto` is cuda where there is one, else cpu."""
    packing: bool = False
    """Rows of a micro-batch one after another in one sequence, with restarted positions."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""


@dataclass(frozen=True)
class FsdpOptions(TorchOptions):
    """Options of the FSDP2 trainer."""

    world_size: int = 1
    """Ranks; each is a process."""
    param_dtype: str = "auto"
    """Dtype of the forward pass (mixed precision); `auto` is the side's --dtype."""
    master_dtype: str = "auto"
    """Dtype the weights are held in; `auto` is the side's --dtype."""
