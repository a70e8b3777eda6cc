"""Fingerprints of weight tensors that survive fusing and repacking.

A checksum of bytes changes when q, k and v are stacked or a kernel reorders a matrix, though no
weight changed. Sums over the values do not, and the sums of stacked tensors add up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """name -> {numel, sum, sum_sq, sum_abs}, each additive over stacked tensors."""
    return {
        name: _moments(tensor.detach())
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.is_meta
    }


def _moments(tensor: Tensor) -> dict[str, float]:
    wide = tensor.to(torch.float64)
    return {
        "numel": float(tensor.numel()),
        "sum": float(wide.sum()),
        "sum_sq": float((wide * wide).sum()),
        "sum_abs": float(wide.abs().sum()),
    }
