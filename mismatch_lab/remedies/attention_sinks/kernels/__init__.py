"""The flash kernels that sinks can be added to: one row each."""

from __future__ import annotations

from torch import Tensor

from mismatch_lab.errors import InputError
from mismatch_lab.registry import resolve
from mismatch_lab.remedies.attention_sinks.kernels.base import Kernel, NativeKernel
from mismatch_lab.remedies.attention_sinks.kernels.flash_attn_4 import KERNEL as FLASH_ATTN_4

_HERE = "mismatch_lab.remedies.attention_sinks.kernels"

KERNELS: dict[str, str] = {
    "torch-cuda": f"{_HERE}.torch_cuda:KERNEL",
    "torch-cpu": f"{_HERE}.torch_cpu:KERNEL",
    "flash-attn-2": f"{_HERE}.flash_attn_2:KERNEL",
    "flash-attn-4": f"{_HERE}.flash_attn_4:KERNEL",
    "math": f"{_HERE}.math:KERNEL",
}

TORCHS_OWN = ("torch-cuda", "torch-cpu", "math")
"""Part of torch, so always there and the same for everyone."""


def pick_kernel(name: str, q: Tensor) -> Kernel | NativeKernel:
    """The row of that name; `torch` is the first of torch's own that can take `q`.

    `auto` is flash-attn-4 where it is installed and the faster one, else `torch`. Rows of different
    length may then go through different kernels: name one where that matters.

    Raises:
        InputError: no such row, or it cannot take this tensor; the message says why.
    """
    if name == "auto" and FLASH_ATTN_4.pays(q):
        return FLASH_ATTN_4
    if name in ("auto", "torch"):
        return next(row for row in map(kernel_named, TORCHS_OWN) if not row.unfit(q))
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
