"""What SGLang's kernels read, as tensors of the checkpoint.

SGLang's loaders write into the parameters that its kernels read, on a CPU without AMX and, for
weights that are not quantised, on a GPU. So a fingerprint taken now is of what runs now, after an
update as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.fingerprint import fingerprint_tensor
from mismatch_lab.engines.fused_parts import FUSED


@torch.no_grad()
def held_fingerprints(model: nn.Module) -> dict[str, Fingerprint]:
    """Of the parameters, by names of the checkpoint; of fused ones by part."""
    return {name: fingerprint_tensor(tensor) for name, tensor in parameters(model)}


def parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers with values; a tensor of two modules under each name."""
    for path, module in model.named_modules(remove_duplicate=False):
        own = {**module._parameters, **module._buffers}
        for name, tensor in own.items():
            if _counts(module, name, tensor):
                assert tensor is not None
                yield from _parts(path, name, _without_padding(module, name, tensor), module)


def _counts(module: nn.Module, name: str, tensor: Tensor | None) -> bool:
    if tensor is None or name in module._non_persistent_buffers_set or tensor.is_meta:
        return False
    made = name == "cos_sin_cache"  # of the configuration, in no checkpoint
    return tensor.is_floating_point() and tensor.numel() > 0 and not made


def _without_padding(module: Any, name: str, tensor: Tensor) -> Tensor:
    """Rows of a vocabulary that the checkpoint has."""
    if name == "weight" and hasattr(module, "shard_indices"):
        return tensor[: module.shard_indices.num_org_elements]
    return tensor


def _parts(path: str, name: str, tensor: Tensor, module: Any) -> Iterator[tuple[str, Tensor]]:
    """Of a layer that holds several of the checkpoint's, one above the other."""
    parent, _, leaf = path.rpartition(".")
    parts, sizes = FUSED.get(leaf, []), getattr(module, "output_partition_sizes", [])
    if len(parts) != len(sizes) or len(parts) < 2 or tensor.shape[0] != sum(sizes):
        yield f"{path}.{name}" if path else name, tensor
        return
    for part, rows in zip(parts, torch.split(tensor, list(sizes)), strict=True):
        yield f"{parent}.{part}.{name}", rows
