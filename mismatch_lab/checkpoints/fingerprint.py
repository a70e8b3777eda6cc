"""Fingerprints of torch tensors, on their device; `captures.fingerprint` says what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

from mismatch_lab.captures.fingerprint import (
    EXPONENT,
    MODULUS,
    MULTIPLIERS,
    PLACE,
    QUIET_NAN,
    ROUNDED_TO,
    SHIFTS,
    Fingerprint,
)

CPU_CHUNK = 1 << 15
"""Elements that a thread mixes at a time: in 64 bits they fit its second-level cache, and torch
gives a thread no fewer. Of 2^14 to 2^18 it took least time."""
GPU_CHUNK = 1 << 24
"""The same on a GPU, which has to be kept busy: some hundred MiB."""


def fingerprint_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Fingerprint]:
    """Of those that have floating point values; what is empty or on the meta device has none."""
    return {
        name: fingerprint_tensor(tensor)
        for name, tensor in tensors
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel() > 0
    }


@torch.no_grad()
def fingerprint_tensor(tensor: Tensor) -> Fingerprint:
    """Of one tensor.

    Args:
        tensor: any shape and floating point dtype; its elements in row-major order.
    """
    held = tensor.detach()
    dtype = str(held.dtype).removeprefix("torch.")
    on_cpu = held.device.type == "cpu"
    size = CPU_CHUNK * torch.get_num_threads() if on_cpu else GPU_CHUNK
    values, placed = dict.fromkeys(ROUNDED_TO, 0), dict.fromkeys(ROUNDED_TO, 0)
    weight, step = 1, pow(PLACE, size, MODULUS)
    weights = _powers(size, held.device)
    for chunk in torch.split(_as_computed(held).reshape(-1), size):
        for kind, mixed in _mixed_by_kind(chunk):
            values[kind] += int(mixed.sum())
            placed[kind] += weight * int(mixed.mul_(weights[: len(mixed)]).sum())
        weight = weight * step % MODULUS
    if held.dtype in (torch.bfloat16, torch.float16):
        values["float32"], placed["float32"] = values[dtype], placed[dtype]
    return Fingerprint(
        dtype,
        tuple(held.shape),
        {kind: total % MODULUS for kind, total in values.items()},
        {kind: total % MODULUS for kind, total in placed.items()},
    )


def without_place(fingerprint: Fingerprint) -> Fingerprint:
    """Of a tensor whose elements may be in any order."""
    return Fingerprint(fingerprint.dtype, fingerprint.shape, fingerprint.values, None)


def _as_computed(tensor: Tensor) -> Tensor:
    """In one of the dtypes that there are sums of."""
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return tensor if tensor.dtype in kinds else tensor.float()


def _mixed_by_kind(chunk: Tensor) -> Iterator[tuple[str, Tensor]]:
    """int64 of every element, rounded to each dtype; 16 bits are in float32 as they are."""
    if chunk.dtype == torch.float32:
        yield "float32", _mix(_bits(chunk))
    for kind in (torch.bfloat16, torch.float16):
        stored = chunk.to(kind) if chunk.dtype == torch.float32 else chunk
        patterns = stored.view(torch.int16).int().bitwise_and_(0xFFFF)
        table = _table(stored.dtype, kind, chunk.device)
        yield str(kind).removeprefix("torch."), table.index_select(0, patterns)


@cache
def _table(held: torch.dtype, kind: torch.dtype, device: torch.device) -> Tensor:
    """[65536] mixed bits of each 16-bit pattern of `held`, rounded to `kind`."""
    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(held)
    return _mix(_bits(patterns.to(kind).float())).to(device)


def _bits(values: Tensor) -> Tensor:
    """int64; see `captures.fingerprint` for what counts as 0 and as NaN."""
    bits = values.view(torch.int32)
    exponent = bits & EXPONENT
    low, high = exponent.aminmax()
    if int(low) == 0 or int(high) == EXPONENT:
        bits = bits.masked_fill(exponent == 0, 0).masked_fill(values.isnan(), QUIET_NAN)
    return bits.long()


def _mix(bits: Tensor) -> Tensor:
    """In place."""
    shifted = torch.empty_like(bits)
    for multiplier, shift in zip(MULTIPLIERS, SHIFTS, strict=True):
        bits *= _signed(multiplier)
        torch.bitwise_right_shift(bits, shift, out=shifted)
        shifted &= (1 << (64 - shift)) - 1  # the shift repeats the sign
        bits ^= shifted
    return bits


@cache
def _powers(count: int, device: torch.device) -> Tensor:
    """[count] int64: PLACE ** i."""
    powers = torch.ones(count, dtype=torch.int64)
    filled = 1
    while filled < count:
        block = powers[filled : 2 * filled]
        block.copy_(powers[: len(block)] * _signed(pow(PLACE, filled, MODULUS)))
        filled *= 2
    return powers.to(device)


def _signed(word: int) -> int:
    """The same 64 bits as a signed number."""
    return word - MODULUS if word >= MODULUS // 2 else word
