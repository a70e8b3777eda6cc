"""The parts of an engine's model by transformers' names, what it has fused taken apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from mismatch_lab.captures.names import renamed
from mismatch_lab.captures.structure import named_parts
from mismatch_lab.captures.taps import Split

FUSED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}
"""What engines fuse of whatever model; a model of vLLM says what else it does."""


def as_known(
    model: Any, known: Collection[str] | None
) -> tuple[dict[str, nn.Module], dict[str, Split]]:
    """The engine's parts by transformers' names, and how to take apart what it fuses."""
    parts = named_parts(model)
    names = renamed(parts, known) if known is not None else {name: name for name in parts}
    fused = FUSED | dict(getattr(model, "packed_modules_mapping", None) or {})
    modules: dict[str, nn.Module] = {}
    splits: dict[str, Split] = {}
    for own, module in parts.items():
        stem, _, last = own.rpartition(".")
        within = [f"{stem}.{part}" for part in fused.get(last, ())]
        if known is None or names[own] in known:
            modules[names[own]] = module
        if (known is None or names[own] not in known) and _can_split(module, within, known):
            ranks = int(getattr(module, "tp_size", 1))
            sizes = [int(size) // ranks for size in module.output_sizes]  # type: ignore[union-attr]
            modules[own], splits[own] = module, _split_by(within, sizes)
    return modules, splits


def _can_split(module: nn.Module, within: list[str], known: Collection[str] | None) -> bool:
    sizes = getattr(module, "output_sizes", ())
    named = known is None or all(part in known for part in within)
    return bool(within) and len(sizes) == len(within) and named


def _split_by(parts: list[str], sizes: list[int]) -> Split:
    return lambda fused: dict(zip(parts, torch.split(fused, sizes, dim=-1), strict=True))
