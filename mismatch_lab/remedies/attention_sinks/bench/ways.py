"""Ways to attend with sinks, and the same kernels without: functions of (q, k, v, sinks, spec)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mismatch_lab.remedies.attention_sinks.epilogue import can_fuse
from mismatch_lab.remedies.attention_sinks.function import sink_attention
from mismatch_lab.remedies.attention_sinks.kernels import kernel_named, pick_kernel
from mismatch_lab.remedies.attention_sinks.spec import Spec, visible

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Spec], Tensor]

COPIES_OF_SCORES = 6
"""Matrices [H, T, T] that eager attention holds at its peak, forward and backward."""


@dataclass(frozen=True)
class Way:
    """One row of the tables."""

    attend: Attend
    sinks: bool = True
    packs: bool = True
    """Takes several documents."""
    windows: bool = True
    """Takes a window."""
    quadratic: bool = False
    """Holds all scores at once."""


class _WithoutSinks(torch.autograd.Function):
    """A kernel by itself, called as `sink_attention` calls it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> Tensor:
        ctx.kernel, ctx.spec = pick_kernel("torch", q), spec
        out, lse = ctx.kernel.forward(q, k, v, spec)
        ctx.save_for_backward(q, k, v, out, lse)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.kernel.backward(dout.contiguous(), *ctx.saved_tensors, ctx.spec), None


def without_sinks(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    """The kernel alone; sinks get no gradient."""
    out: Tensor = _WithoutSinks.apply(q, k, v, spec)  # type: ignore[no-untyped-call]
    return out


def eager(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    """The operations of transformers' eager GPT-OSS attention, in the dtype of q."""
    group = q.shape[1] // k.shape[1]
    query, key, value = (x.transpose(0, 1) for x in (q, k, v))
    key, value = (x.repeat_interleave(group, dim=0) for x in (key, value))
    tokens = range(len(q))
    mask = torch.zeros(len(q), len(q), dtype=q.dtype, device=q.device)
    mask.masked_fill_(~visible(tokens, tokens, spec.window, q.device), torch.finfo(q.dtype).min)
    scores = query @ key.mT * spec.scale + mask
    column = sinks[:, None, None].expand(-1, len(q), 1)
    logits = torch.cat([scores, column], dim=-1)
    logits = logits - logits.max(dim=-1, keepdim=True).values
    probabilities = logits.softmax(dim=-1, dtype=logits.dtype)[..., :-1]
    return (probabilities @ value).transpose(0, 1).contiguous()


def flex(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    """torch's flex attention, compiled on a GPU; sinks by way of its differentiable lse."""
    query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
    mask = _block_mask(len(q), spec.window, str(q.device))
    options = {"block_mask": mask, "scale": spec.scale, "enable_gqa": True}
    out, lse = _flex(q.is_cuda)(query, key, value, **options, **_lse_wanted())
    lse = getattr(lse, "lse", lse)
    out = out * torch.sigmoid(lse - sinks[None, :, None])[..., None].to(out.dtype)
    return out[0].transpose(0, 1)  # type: ignore[no-any-return]


def sdpa(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, spec: Spec) -> Tensor:
    """torch's scaled_dot_product_attention, whatever it picks: no sinks."""
    query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=spec.scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def through(kernel: str, fused: bool | None) -> Attend:
    """This package's sink attention."""
    return lambda q, k, v, sinks, spec: sink_attention(
        q, k, v, sinks, spec, kernel=kernel, fused=fused
    )


def ways_for(q: Tensor) -> dict[str, Way]:
    """What can be tried on the device of this tensor, the yardstick first."""
    ways = {"kernel without sinks": Way(without_sinks, sinks=False)}
    ways["sinks"] = Way(through("torch", False))  # by torch operations
    if can_fuse(q):
        ways["sinks, fused"] = Way(through("torch", True))  # by two Triton kernels
    for name in ("flash-attn-2", "flash-attn-4"):
        if not kernel_named(name).unfit(q):
            ways[f"sinks, {name}"] = Way(through(name, None))
    ways["sdpa"] = Way(sdpa, sinks=False, packs=False, windows=False)
    ways["eager"] = Way(eager, packs=False, quadratic=True)
    if q.is_cuda:  # it has no backward on CPUs
        ways["flex"] = Way(flex, packs=False)
    return ways


def _lse_wanted() -> dict[str, Any]:
    from torch.nn.attention import flex_attention as module

    request = getattr(module, "AuxRequest", None)  # since torch 2.9
    return {"return_lse": True} if request is None else {"return_aux": request(lse=True)}


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    if not compiled:
        return flex_attention
    fast: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return fast


@cache
def _block_mask(tokens: int, window: int | None, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    def sliding(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert window is not None
        return (key <= query) & (key > query - window)

    seen = causal if window is None else sliding
    return create_block_mask(seen, None, None, tokens, tokens, device=device)
