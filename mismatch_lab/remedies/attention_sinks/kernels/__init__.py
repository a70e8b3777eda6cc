"""The flash kernels that sinks can be added to: one row each."""

from __future__ import annotations

from torch import Tensor

from mismatch_lab.errors import InputError
from mismatch_lab.registry import resolve
from mismatch_lab.remedies.attention_sinks.kernels.base import Kernel, NativeKernel

_HERE = "mismatch_lab.remedies.attention_sinks.kernels"

KERNELS: dict[str, str] = {
    "torch-cuda": f"{_HERE}.torch_cuda:KERNEL",
    "torch-cpu": f"{_HERE}.torch_cpu:KERNEL",
    "flash-attn-2": f"{_HERE}.flash_attn_2:KERNEL",
    "flash-attn-4": f"{_HERE}.flash_attn_4:KERNEL",
    "math": f"{_HERE}.math:KERNEL",
}

# Part of torch, so always there and the same for everyone; the packages only when asked for.
AUTO = ("torch-cuda", "torch-cpu", "math")


def pick_kernel(name: str, q: Tensor) -> Kernel | NativeKernel:
    """The row of that name; `auto` is the first of torch's own that can take `q`.

    Raises:
        InputError: no such row, or it cannot take this tensor; the message says why.
    """
    if name == "auto":
        return next(row for row in map(kernel_named, AUTO) if not row.unfit(q))
    row = kernel_named(name)
    if reason := row.unfit(q):
        raise InputError(f"Attention kernel {name} cannot be used: {reason}.", "Try kernel=auto.")
    return row


def kernel_named(name: str) -> Kernel | NativeKernel:
    """The row of that name, whether or not it can be used here.

    Raises:
        InputError: no such row.
    """
    kernel: Kernel | NativeKernel = resolve("attention kernel", name, KERNELS)
    return kernel
