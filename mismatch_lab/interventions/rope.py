"""Suspected defects of rotary position embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mismatch_lab.definitions.rotary import RotaryEmbedding
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import (
    attributes_set,
    factor,
    hooks,
    text,
)
from mismatch_lab.interventions.rounding import float_dtype, rounded
from mismatch_lab.schema import Alteration

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Frequencies:
    """One set of frequencies of a rotary module: the only one, or that of a layer type."""

    module: Any
    layer_type: str | None

    @property
    def prefix(self) -> str:
        """Before `inv_freq` and `attention_scaling` in the module's attributes."""
        return f"{self.layer_type}_" if self.layer_type else ""

    @property
    def parameters(self) -> Parameters:
        """`rope_parameters` of the config, for this layer type."""
        if isinstance(self.module, RotaryEmbedding):
            return dict(self.module.given)
        every: Parameters = self.module.config.rope_parameters
        return every[self.layer_type] if self.layer_type else every

    def set_to(self, inv_freq: Tensor) -> list[tuple[Any, str, Any]]:
        """Changes that put `inv_freq` into the buffer and into the copy it is refreshed from."""
        names = [f"{self.prefix}inv_freq", f"{self.prefix}original_inv_freq"]
        there = [name for name in names if hasattr(self.module, name)]
        return [(self.module, name, inv_freq.to(getattr(self.module, name))) for name in there]

    def recomputed(self, parameters: Parameters) -> list[tuple[Any, str, Any]]:
        """Changes that make these the frequencies and attention factor of other parameters."""
        if isinstance(self.module, RotaryEmbedding):
            (short, long), factor = self.module.computed(parameters)
            tables = [(self.module, "inv_freq", short), (self.module, "long_inv_freq", long)]
            device = self.module.inv_freq.device
            moved = [(owner, name, table.to(device)) for owner, name, table in tables]
            return [*moved, (self.module, "attention_scaling", factor)]
        config = deepcopy(self.module.config)
        if self.layer_type:
            config.rope_parameters = config.rope_parameters | {self.layer_type: parameters}
        else:
            config.rope_parameters = parameters
        kind = parameters["rope_type"]
        compute = (
            self.module.compute_default_rope_parameters
            if kind == "default"
            else ROPE_INIT_FUNCTIONS[kind]
        )
        device = getattr(self.module, f"{self.prefix}inv_freq").device
        layer = {"layer_type": self.layer_type} if self.layer_type else {}
        inv_freq, scaling = compute(config, device=device, **layer)
        return [*self.set_to(inv_freq), (self.module, f"{self.prefix}attention_scaling", scaling)]


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    """Modules that turn positions into cosines and sines.

    Raises:
        NotApplicableError: there are none.
    """
    found = [m for m in model.modules() if any(n.endswith("inv_freq") for n in m._buffers)]
    if not found:
        raise NotApplicableError("The model has no rotary position embedding.")
    return found


def frequencies(model: nn.Module, alteration: Alteration) -> list[Frequencies]:
    """The sets of frequencies that the altered layers use.

    Raises:
        NotApplicableError: there are none, or all layers share them and only some are altered.
    """
    found = []
    for module in rotary_modules(model):
        for name in module._buffers:
            prefix = name.removesuffix("inv_freq").rstrip("_")
            if name.endswith("inv_freq") and not name.endswith(
                ("original_inv_freq", "long_inv_freq")
            ):
                found.append(Frequencies(module, prefix or None))
    if alteration.layers is None:
        return found
    if any(one.layer_type is None for one in found):
        raise NotApplicableError("All layers share one set of rotary frequencies.")
    types = found[0].module.config.layer_types
    altered = {types[layer] for layer in alteration.layers}
    return [one for one in found if one.layer_type in altered]


@contextmanager
def _other_parameters(
    model: nn.Module, alteration: Alteration, change: Callable[[Parameters], Parameters | None]
) -> Iterator[None]:
    """`change` gives the new parameters, or None where it does not apply."""
    changes = []
    for one in frequencies(model, alteration):
        parameters = change(dict(one.parameters))
        if parameters is not None:
            changes += one.recomputed(parameters)
    if not changes:
        raise NotApplicableError(f"{alteration.name}: the model's RoPE has no such parameter.")
    with attributes_set(changes):
        yield


@contextmanager
def rope_theta(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Frequencies computed from theta times a factor."""
    by = factor(alteration)
    with _other_parameters(
        model, alteration, lambda given: given | {"rope_theta": given["rope_theta"] * by}
    ):
        yield


@contextmanager
def rope_factor(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Frequencies, and what follows from it for attention, with the scaling factor times this."""
    by = factor(alteration)
    with _other_parameters(
        model,
        alteration,
        lambda given: given | {"factor": given["factor"] * by} if given.get("factor") else None,
    ):
        yield


@contextmanager
def rope_default(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """No scaling: plain frequencies of theta, attention factor 1."""
    with _other_parameters(
        model,
        alteration,
        lambda given: given | {"rope_type": "default"} if given["rope_type"] != "default" else None,
    ):
        yield


@contextmanager
def rope_attention_factor(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Cosines and sines of a scaled RoPE multiplied by another attention factor (mscale)."""
    by = factor(alteration)
    changes = [
        (one.module, name, getattr(one.module, name) * by)
        for one in frequencies(model, alteration)
        if one.parameters["rope_type"] != "default"
        for name in [f"{one.prefix}attention_scaling"]
    ]
    if not changes:
        raise NotApplicableError("The model's RoPE is not scaled: it has no attention factor.")
    with attributes_set(changes):
        yield


@contextmanager
def inv_freq_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Inverse frequencies rounded to a dtype: the phase error grows with the position."""
    dtype = float_dtype(text(alteration, "bfloat16"))
    changes = []
    for one in frequencies(model, alteration):
        changes += one.set_to(rounded(getattr(one.module, f"{one.prefix}inv_freq"), dtype))
    if all(value.equal(getattr(owner, name)) for owner, name, value in changes):
        raise NotApplicableError(f"The inverse frequencies are {dtype} numbers already.")
    with attributes_set(changes):
        yield


@contextmanager
def rope_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Cosines and sines rounded to a dtype."""
    dtype = float_dtype(text(alteration, "bfloat16"))
    modules = _whole_model(model, alteration)
    if next(model.parameters()).dtype == dtype:
        raise NotApplicableError(f"Cosines and sines are {dtype} already.")

    def narrow(_module: nn.Module, _args: Any, output: Tensor | tuple[Tensor, Tensor]) -> Any:
        if isinstance(output, Tensor):  # DeepSeek-V2: cosine and sine as one complex number
            parts = torch.view_as_real(output) if output.is_complex() else output
            narrowed = rounded(parts, dtype)
            return torch.view_as_complex(narrowed) if output.is_complex() else narrowed
        return tuple(rounded(table, dtype) for table in output)

    with hooks(module.register_forward_hook(narrow) for module in modules):
        yield


def _whole_model(model: nn.Module, alteration: Alteration) -> list[nn.Module]:
    if alteration.layers is not None:
        raise NotApplicableError(f"{alteration.name}: all layers share what this alters.")
    return rotary_modules(model)
