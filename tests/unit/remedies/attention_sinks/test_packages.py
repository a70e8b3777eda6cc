"""The rows for packages that need a GPU, against stand-ins with the packages' signatures.

Signatures of flash-attn 2.8.3 and flash-attn-4 4.0.0b36; what they compute here is the definition.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mismatch_lab.errors import EngineError
from mismatch_lab.remedies.attention_sinks.function import _SinkAttention
from mismatch_lab.remedies.attention_sinks.kernels import (
    flash_attn_2,
    flash_attn_4,
    kernel_named,
    pick_kernel,
    torch_cuda,
)
from mismatch_lab.remedies.attention_sinks.kernels.math import KERNEL as MATH
from mismatch_lab.remedies.attention_sinks.reference import attention_reference
from mismatch_lab.remedies.attention_sinks.spec import Layout, Spec, layout_of

SPEC = Spec(layout_of([6, 9]), 0.25, 4)


def spec_of(cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, scale: float, left: Any) -> Spec:
    """What the arguments of the packages mean: `left` keys and the query's own."""
    window = None if left in (None, -1) else left + 1
    return Spec(Layout(cu_q, cu_k, max_q, max_k), scale, window)


def varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert (dropout_p, causal, window_size_right, softcap) == (0.0, True, 0, 0.0)
    lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
    out, lse = MATH.forward(q, k, v, spec_of(*lengths, softmax_scale, window_size_left))
    return out, lse, torch.empty(0), torch.empty(2)


def varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
) -> Tensor:
    assert (dropout_p, causal, window_size_right, softcap) == (0.0, True, 0, 0.0)
    assert (alibi_slopes, deterministic, rng_state) == (None, False, None)
    lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
    spec = spec_of(*lengths, softmax_scale, window_size_left)
    for into, grad in zip(
        (dq, dk, dv), MATH.backward(dout, q, k, v, out, softmax_lse, spec), strict=True
    ):
        into.copy_(grad)
    return softmax_lse


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    stand_in = ModuleType(name)
    stand_in.__spec__ = ModuleSpec(name, None)
    stand_in.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, stand_in)


def test_flash_attn_2(
    monkeypatch: pytest.MonkeyPatch,
    problem: Callable[..., Any],
    run: Callable[..., Any],
    errors: Callable[..., list[float]],
) -> None:
    functions = {
        "_wrapped_flash_attn_varlen_forward": varlen_forward,
        "_wrapped_flash_attn_varlen_backward": varlen_backward,
    }
    module(monkeypatch, "flash_attn.flash_attn_interface", **functions)
    interface = sys.modules["flash_attn.flash_attn_interface"]
    module(monkeypatch, "flash_attn", flash_attn_interface=interface, __path__=[])
    inputs, dout = problem(15, 15, torch.float64)
    assert "CUDA GPU" in flash_attn_2.KERNEL.unfit(inputs[0])
    got = run(lambda *x: _SinkAttention.apply(*x, SPEC, flash_attn_2.KERNEL, False), inputs, dout)
    true = run(partial(attention_reference, spec=SPEC), inputs, dout)
    assert max(errors(got, true)) < 1e-13


def install_flash_attn_4(monkeypatch: pytest.MonkeyPatch, trains_sinks: bool) -> None:
    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        qv: Tensor | None = None,
        *,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool = False,
        window_size: tuple[int | None, int | None] = (None, None),
        learnable_sink: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, None]:
        assert (causal, qv, deterministic) == (True, None, False)
        assert window_size[1] in (None, 0)
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        sinks = learnable_sink if trains_sinks else learnable_sink.detach()
        spec = spec_of(*lengths, softmax_scale, window_size[0])
        return attention_reference(q, k, v, sinks, spec), None

    module(monkeypatch, "flash_attn.cute", flash_attn_varlen_func=flash_attn_varlen_func)
    module(monkeypatch, "flash_attn", cute=sys.modules["flash_attn.cute"], __path__=[])
    flash_attn_4.check_sinks_learn.cache_clear()


def test_flash_attn_4(
    monkeypatch: pytest.MonkeyPatch,
    problem: Callable[..., Any],
    run: Callable[..., Any],
    errors: Callable[..., list[float]],
) -> None:
    install_flash_attn_4(monkeypatch, trains_sinks=True)
    inputs, dout = problem(15, 15, torch.float64)
    got = run(partial(flash_attn_4.KERNEL.attend, spec=SPEC), inputs, dout)
    true = run(partial(attention_reference, spec=SPEC), inputs, dout)
    assert max(errors(got, true)) < 1e-13


def test_a_flash_attn_4_that_does_not_train_sinks_is_refused(
    monkeypatch: pytest.MonkeyPatch, problem: Callable[..., Any]
) -> None:
    install_flash_attn_4(monkeypatch, trains_sinks=False)
    (q, k, v, sinks), _ = problem(15, 15, torch.float64)
    with pytest.raises(EngineError, match="no gradient for attention sinks"):
        flash_attn_4.KERNEL.attend(q, k, v, sinks.requires_grad_(), SPEC)
    with torch.no_grad():  # to score with it is fine
        flash_attn_4.KERNEL.attend(q, k, v, sinks, SPEC)


CUDA = torch.device("cuda")


@dataclass
class OnGpu:
    """What is asked of queries before a kernel is picked."""

    tokens: int
    width: int = 64
    dtype: torch.dtype = torch.bfloat16
    device: torch.device = CUDA
    is_cuda: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.tokens, 8, self.width


@pytest.mark.parametrize(
    ("capability", "q", "learns", "picked"),
    [
        ((9, 0), OnGpu(4096), True, "flash-attn-4"),
        ((9, 0), OnGpu(4096, width=256), True, "flash-attn-4"),
        ((10, 0), OnGpu(4096), True, "flash-attn-4"),
        ((10, 0), OnGpu(4096, width=256), True, "torch-cuda"),
        ((8, 0), OnGpu(4096), True, "torch-cuda"),  # an A100
        ((9, 0), OnGpu(4095), True, "torch-cuda"),  # where torch's is as fast
        ((9, 0), OnGpu(4096), False, "torch-cuda"),  # a beta that trains no sinks
        ((9, 0), OnGpu(4096, dtype=torch.float32), True, "math"),
    ],
)
def test_auto_is_flash_attn_4_where_it_is_installed_fits_and_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    q: OnGpu,
    learns: bool,
    picked: str,
) -> None:
    def check(device: str) -> None:
        if not learns:
            raise EngineError("no gradient")

    install_flash_attn_4(monkeypatch, trains_sinks=learns)
    monkeypatch.setattr(flash_attn_4, "check_sinks_learn", check)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_kernel("auto", cast(Tensor, q)) is kernel_named(picked)
    own = "math" if q.dtype == torch.float32 else "torch-cuda"
    assert pick_kernel("torch", cast(Tensor, q)) is kernel_named(own)


def test_without_the_package_auto_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert pick_kernel("auto", cast(Tensor, OnGpu(1 << 16))) is torch_cuda.KERNEL


def test_torch_on_cuda_takes_and_returns_what_the_row_expects() -> None:
    """On the meta device: torch's own account of the operators' arguments and shapes."""
    q, k, v = (
        torch.empty(15, heads, 64, dtype=torch.bfloat16, device="meta") for heads in (8, 2, 2)
    )
    out, lse = torch_cuda.KERNEL.forward(q, k, v, SPEC)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (8, 15), torch.float32)
    grads = torch_cuda.KERNEL.backward(out, q, k, v, out, lse, SPEC)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]
