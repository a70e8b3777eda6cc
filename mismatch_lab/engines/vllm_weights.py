"""What the kernels of a vLLM model read, as tensors of the checkpoint.

vLLM's loader writes to parameters; kernels may read others. On a CPU a linear layer multiplies by a
matrix that oneDNN packed into memory of its own, experts are packed in place, and a head is packed
beside its parameter. Here each of them is put back as the checkpoint has it, so that its
fingerprint can be held against the checkpoint's, bit for bit.

Not covered: what a captured CUDA graph still points at, and experts that a GPU's kernel wants in an
order of its own are compared whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.fingerprint import fingerprint_tensor, without_place

READ_BACK_ROWS = 1024
"""Unit vectors that a packed matrix is multiplied by at a time."""
PLAIN_BACKENDS = ("CPU", "TRITON", "BATCHED_TRITON")
"""Of experts: those whose kernels keep the loader's order (a CPU's is undone)."""


class Held(NamedTuple):
    """A tensor, or a part of a fused one, by a name of the checkpoint in vLLM's spelling."""

    name: str
    tensor: Tensor
    ordered: bool = True
    """Whether its elements are in the checkpoint's order."""


def held_fingerprints(model: nn.Module, by_expert: bool = False) -> dict[str, Fingerprint]:
    """Of the parameters, packed ones included, by name.

    Args:
        model: vLLM's.
        by_expert: each expert's matrices apart, where the checkpoint has them apart: which one is
            stale then has a name. A side that holds all of a layer as one is compared as one.
    """
    return {held.name: _fingerprint(held) for held in parameters(model, by_expert)}


def copied_fingerprints(model: nn.Module) -> dict[str, Fingerprint]:
    """Of what kernels read in place of, or beside, a parameter of that name; see `copies`."""
    return {held.name: _fingerprint(held) for held in copies(model)}


def _fingerprint(held: Held) -> Fingerprint:
    found = fingerprint_tensor(held.tensor)
    return found if held.ordered else without_place(found)


@torch.no_grad()
def parameters(model: nn.Module, by_expert: bool = False) -> Iterator[Held]:
    """Parameters and persistent buffers with values; packed matrices as they are read."""
    fusings = getattr(model, "packed_modules_mapping", None) or {}
    for path, module in model.named_modules():
        for name, tensor in _tensors(module):
            if hasattr(module, "w13_weight"):
                held = Held(f"{path}.{name}", *_experts(module, name, tensor))
                yield from _each_expert(module, path, name, held) if by_expert else (held,)
            else:
                yield from _parts(path, name, tensor, module, fusings)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own, by name; a matrix that a kernel has packed away is read back."""
    own = {**module._parameters, **module._buffers}
    for name, tensor in own.items():
        if tensor is None or name in module._non_persistent_buffers_set or tensor.is_meta:
            continue
        if tensor.numel() == 0 and name == "weight" and hasattr(module, "cpu_linear"):
            tensor = read_back(module)
        if tensor.numel() > 0 and tensor.is_floating_point():
            yield name, _without_padding(module, name, tensor)


@torch.no_grad()
def read_back(module: Any) -> Tensor:
    """[N, K] the matrix that a packed linear multiplies by: its products with the unit vectors.

    Exact: each is a sum of one element and zeros.
    """
    dtype = module.weight.dtype
    width = getattr(module, "input_size_per_partition", None)
    width = width or getattr(module, "input_size", None) or module.embedding_dim
    columns = []
    for start in range(0, width, READ_BACK_ROWS):
        units = torch.zeros(min(READ_BACK_ROWS, width - start), width, dtype=dtype)
        units[:, start:].fill_diagonal_(1)
        columns.append(module.cpu_linear(units, module.weight, None))
    return torch.cat(columns).T


def _without_padding(module: Any, name: str, tensor: Tensor) -> Tensor:
    """Rows of a vocabulary that the checkpoint has."""
    if name == "weight" and hasattr(module, "shard_indices"):
        return tensor[: module.shard_indices.num_org_elements]
    return tensor


def _parts(
    path: str,
    name: str,
    tensor: Tensor,
    module: Any,
    fusings: Mapping[str, list[str]],
) -> Iterator[Held]:
    """Of a layer that holds several of the checkpoint's, one above the other."""
    parent, _, leaf = path.rpartition(".")
    names, sizes = fusings.get(leaf, []), getattr(module, "output_partition_sizes", [])
    if len(names) < 2 or len(names) != len(sizes) or tensor.shape[0] != sum(sizes):
        yield Held(f"{path}.{name}" if path else name, tensor)
        return
    for part, rows in zip(names, torch.split(tensor, sizes), strict=True):
        yield Held(f"{parent}.{part}.{name}", rows)


def _experts(module: Any, name: str, tensor: Tensor) -> tuple[Tensor, bool]:
    """A tensor of all experts of a layer as it was loaded, and whether that could be done."""
    backend = getattr(getattr(module.quant_method, "unquantized_backend", None), "name", "")
    kernel = getattr(module.quant_method, "moe_kernel", None)
    if name not in ("w13_weight", "w2_weight"):
        return tensor, True
    if kernel is not None and backend not in PLAIN_BACKENDS:
        return tensor, False
    if kernel is not None and backend == "CPU" and not kernel.fused_experts._use_zentorch:
        tensor = _unpadded(module, name, _unpacked(tensor, kernel.fused_experts.isa))
    if type(module).__name__ == "GptOssRoutedExperts":
        tensor = tensor.transpose(1, 2)  # the checkpoint's matrices are [in, out]
    return tensor, True


_EXPERT_PARTS = {"w13_weight": ("gate_proj", "up_proj"), "w2_weight": ("down_proj",)}
"""What vLLM puts above one another in an expert's matrix."""


def _each_expert(module: Any, path: str, name: str, held: Held) -> Iterator[Held]:
    """The matrices of each, where all experts are here and the checkpoint has them apart."""
    parts = _EXPERT_PARTS.get(name, ())
    here = held.tensor.shape[0] == getattr(module, "global_num_experts", None)
    fused = type(module).__name__ == "GptOssRoutedExperts"
    if not parts or not held.ordered or not here or fused or held.tensor.shape[1] % len(parts):
        yield held
        return
    for expert, matrix in enumerate(held.tensor):
        for part, rows in zip(parts, matrix.chunk(len(parts)), strict=True):
            yield Held(f"{path}.{expert}.{part}.weight", rows)


def _unpacked(tensor: Tensor, isa: str) -> Tensor:
    """[E, N, K] experts as they were before a CPU's kernel packed them."""
    order = _packing_order(tuple(tensor.shape[1:]), tensor.dtype, isa)
    plain = torch.empty_like(tensor)
    plain.flatten(1)[:, order] = tensor.flatten(1)
    return plain


@cache
def _packing_order(shape: tuple[int, int], dtype: torch.dtype, isa: str) -> Tensor:
    """[N * K] where each element of a packed matrix was: its number, packed digit by digit."""
    from vllm._custom_ops import cpu_prepack_moe_weight

    index = torch.arange(shape[0] * shape[1])
    order = torch.zeros_like(index)
    for shift in range(0, int(index[-1]).bit_length(), 8):  # numbers to 255 are exact in bfloat16
        digit = ((index >> shift) & 0xFF).to(dtype).view(1, *shape)
        order += cpu_prepack_moe_weight(digit, isa).flatten().long() << shift
    return order


def _unpadded(module: Any, name: str, tensor: Tensor) -> Tensor:
    """Without the columns that were added for a CPU's kernel."""
    size = int(module.moe_config.intermediate_size_per_partition)
    if name == "w2_weight":
        return tensor[:, :, :size]
    experts, rows, width = tensor.shape
    return tensor.view(experts, 2, rows // 2, width)[:, :, :size].flatten(1, 2)


@torch.no_grad()
def copies(model: nn.Module) -> Iterator[Held]:
    """What kernels read that is no parameter, by the name of the parameter that it should be."""
    paths = {id(module): path for path, module in model.named_modules()}
    has_head = any(type(module).__name__ == "ParallelLMHead" for module in model.modules())
    for path, module in model.named_modules():
        yield from _head(path, module, has_head)
        yield from _attention(path, module, paths)
        yield from _routed(path, module, model)


def _head(path: str, module: Any, has_head: bool) -> Iterator[Held]:
    """On a CPU logits are products of a packed copy, in a model without a head the embedding's."""
    packed = hasattr(module, "shard_indices") and hasattr(module, "cpu_linear")
    if packed and (type(module).__name__ == "ParallelLMHead" or not has_head):
        yield Held(f"{path}.weight", _without_padding(module, "weight", read_back(module)))


def _attention(path: str, module: Any, paths: Mapping[int, str]) -> Iterator[Held]:
    """Sinks that a backend holds, and the up-projections that MLA absorbs."""
    parent = path.rpartition(".")[0]
    sinks = getattr(getattr(module, "impl", None), "sinks", None)
    if isinstance(sinks, Tensor):
        yield Held(f"{parent}.sinks", sinks)
    keys, values = getattr(module, "W_UK_T", None), getattr(module, "W_UV", None)
    if isinstance(keys, Tensor) and isinstance(values, Tensor):
        # [heads, nope, rank] and [heads, rank, v], of rows that stand head by head.
        rows = torch.cat([keys, values.transpose(1, 2)], dim=1).flatten(0, 1)
        yield Held(f"{paths[id(module.kv_b_proj)]}.weight", rows)


def _routed(path: str, module: Any, model: nn.Module) -> Iterator[Held]:
    """Biases of experts that a kernel holds, and the bias by which a router chooses."""
    kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
    for name in ("w1_bias", "w2_bias"):
        bias = getattr(getattr(kernel, "fused_experts", None), name, None)
        if isinstance(bias, Tensor):
            yield Held(f"{path}.{name.replace('w1', 'w13')}", bias)
    choosing = getattr(getattr(module, "router", None), "e_score_correction_bias", None)
    if isinstance(choosing, Tensor):
        block = path.rpartition(".")[0]
        wanted = [
            name
            for name, _ in model.named_parameters()
            if name.startswith(f"{block}.") and name.endswith("e_score_correction_bias")
        ]
        for name in wanted[:1]:
            yield Held(name, choosing)
