"""Suspected defects of weights: held in a narrower format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from mismatch_lab.errors import NotApplicableError
from mismatch_lab.interventions.planting import Change, in_layers, tensors_changed, text
from mismatch_lab.interventions.rounding import (
    float_dtype,
    grouped_rounded,
    rounded,
    scaled_rounded,
)
from mismatch_lab.schema import Alteration

INT4_GROUP = 32
NOT_QUANTISED = ("gate", "router", "shared_expert_gate")
"""Last names of linear modules that quantised checkpoints leave alone."""


@contextmanager
def weight_dtype(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Linear layers and experts rounded; embeddings, head, router, norms and biases are not.

    Value: `float8_e4m3fn`, `float8_e5m2` (one scale per matrix), `int8` (one per output channel),
    `int4` (one per 32 inputs of an output channel), or a wider float (no scale).
    """
    name = text(alteration)
    changes: list[Change] = [
        (weight, partial(_rounded_matrix, name=name, transposed=transposed))
        for at, weight, transposed in matrices(model)
        if in_layers(at, alteration) and (alteration.tensors is None or at in alteration.tensors)
    ]
    if not changes:
        raise NotApplicableError("The model has no such weights.")
    with tensors_changed(model, changes):
        yield


def matrices(model: Any) -> Iterator[tuple[str, Tensor, bool]]:
    """(name, [..., out, in] weight, whether it is stored [..., in, out]) of what is quantised."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if module is not head and name.rpartition(".")[2] not in NOT_QUANTISED:
                yield f"{name}.weight", module.weight, False
        else:
            for leaf, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:  # [experts, ., .]
                    yield f"{name}.{leaf}", parameter, getattr(module, "is_transposed", False)


def _rounded_matrix(weight: Tensor, name: str, transposed: bool) -> Tensor:
    if transposed:
        return _rounded_matrix(weight.mT, name, transposed=False).mT.contiguous()
    if name == "int4":
        return grouped_rounded(weight, name, INT4_GROUP)
    if name == "int8":
        return scaled_rounded(weight, name, (-1,))
    if name.startswith("float8"):
        return scaled_rounded(weight, name, (-2, -1))
    return rounded(weight, float_dtype(name))
