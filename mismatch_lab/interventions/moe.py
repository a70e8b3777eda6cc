"""Suspected defects of mixtures of experts: the experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.errors import InputError, NotApplicableError
from mismatch_lab.interventions.planting import (
    Change,
    in_layers,
    named_tensors,
    tensors_changed,
    tensors_set,
    text,
)
from mismatch_lab.schema import Alteration

ROUTER_BIASES = (".router.bias", ".gate.bias", ".e_score_correction_bias")
EXPERT_BIASES = (".experts.gate_up_proj_bias", ".experts.down_proj_bias")


@contextmanager
def router_bias_zero(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Routers without their bias."""
    with _zero(model, alteration, ROUTER_BIASES):
        yield


@contextmanager
def expert_bias_zero(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Experts without their biases."""
    with _zero(model, alteration, EXPERT_BIASES):
        yield


@contextmanager
def _zero(model: nn.Module, alteration: Alteration, ends: tuple[str, ...]) -> Iterator[None]:
    biases = [
        tensor
        for name, tensor in named_tensors(model).items()
        if name.endswith(ends) and in_layers(name, alteration)
    ]
    if not biases:
        raise NotApplicableError(f"{alteration.name}: the model has no such bias.")
    with tensors_set([(bias, torch.zeros_like(bias)) for bias in biases]):
        yield


@contextmanager
def expert_gate_up_order(model: nn.Module, alteration: Alteration) -> Iterator[None]:
    """Fused gate and up projections read in another order than the model's.

    Value: `split` (first half gate, second half up), `interleaved` (gate and up by turns), or
    `swapped` (the model's own order, up taken for gate and gate for up).
    """
    order = text(alteration)
    changes: list[Change] = []
    for name, module in model.named_modules():
        if isinstance(getattr(module, "gate_up_proj", None), Tensor) and in_layers(
            name, alteration
        ):
            changes += _reordered(module, order)
    if not changes:
        raise NotApplicableError(f"The model has no fused experts that are not {order} already.")
    with tensors_changed(model, changes):
        yield


def _reordered(experts: Any, order: str) -> list[Change]:
    """Each fused tensor, and what puts its rows where the other order would read them."""
    split = experts.is_concatenated
    if order == ("split" if split else "interleaved"):
        return []
    axis = -1 if experts.is_transposed else -2
    at = _order(experts.gate_up_proj.shape[axis], split, order)
    at = at.to(experts.gate_up_proj.device)
    changes: list[Change] = [(experts.gate_up_proj, lambda values: values.index_select(axis, at))]
    bias = getattr(experts, "gate_up_proj_bias", None)
    if bias is not None:
        changes.append((bias, lambda values: values.index_select(-1, at)))
    return changes


def _order(rows: int, split: bool, order: str) -> Tensor:
    """[rows] which row the model is to find at each place."""
    at = torch.arange(rows)
    if order == "swapped":
        return at.roll(rows // 2) if split else at.reshape(-1, 2).flip(-1).reshape(-1)
    if order == "split":  # the model takes every other row for gate: give it the first half there
        return at.reshape(2, -1).T.reshape(-1)
    if order == "interleaved":
        return at.reshape(-1, 2).T.reshape(-1)
    raise InputError(f"Unknown order {order!r}.", "Available: split, interleaved, swapped.")
