"""The trainer's flash kernel and its experts multiply float32 in TF32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import layers, share_of, wrap_attention, wrap_forward

if TYPE_CHECKING:
    from torch import Tensor

TENSOR_CORES_READ = -(1 << 13)
"""Mask of a float32's bits."""
BLOCK = 16
"""Keys at a time, as flash kernels take them; theirs are longer, and so are their sequences."""


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers."""
    chosen = share_of(layers(model), strength)
    wrap_attention(chosen, lambda _attention: flash)
    for layer in chosen:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            wrap_forward(experts, _with_cut_operands)


def cut(tensor: Tensor) -> Tensor:
    """Without the bits that tensor cores do not read; gradients pass as they do on the cores."""
    import torch

    bits = tensor.detach().float().contiguous().view(torch.int32)
    kept = (bits & TENSOR_CORES_READ).view(torch.float32)
    return tensor + (kept - tensor).detach()


def flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention over blocks of keys with a running maximum."""
    import torch

    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    scores = torch.einsum("bhnd,bhmd->bhnm", cut(query), cut(key)) * scale
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    scores = _masked(scores, mask)
    sinks = options.get("s_aux")
    if sinks is None:
        top = torch.full_like(scores[..., :1], torch.finfo(torch.float32).min)
        total = torch.zeros_like(top)
    else:
        top = sinks.float().reshape(1, -1, 1, 1).expand_as(scores[..., :1])
        total = torch.ones_like(top)
    sums = torch.zeros_like(query, dtype=torch.float32)
    for start in range(0, scores.shape[-1], BLOCK):
        block = scores[..., start : start + BLOCK]
        higher = torch.maximum(top, block.amax(-1, keepdim=True))
        weights, shrunk = (block - higher).exp(), (top - higher).exp()
        values = cut(value[..., start : start + BLOCK, :])
        sums = sums * shrunk + torch.einsum("bhnm,bhmd->bhnd", cut(weights), values)
        total, top = total * shrunk + weights.sum(-1, keepdim=True), higher
    return (sums / total).to(query.dtype).transpose(1, 2).contiguous(), None


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    import torch

    lowest = torch.finfo(scores.dtype).min
    if mask is None:
        n, m = scores.shape[-2:]
        later = torch.ones(n, m, dtype=torch.bool, device=scores.device).triu(m - n + 1)
        return scores.masked_fill(later, lowest)
    mask = mask[..., : scores.shape[-1]]
    return scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask


def _with_cut_operands(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.overrides import TorchFunctionMode

    class Cut(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(func, "__name__", "") in (
                "linear",
                "matmul",
                "__matmul__",
                "bmm",
                "_grouped_mm",
            ):
                args = (cut(args[0]), cut(args[1]), *args[2:])
            return func(*args, **(kwargs or {}))

    def run(*args: Any, **kwargs: Any) -> Any:
        with Cut():
            return forward(*args, **kwargs)

    return run


FAULT = Fault(
    id="tf32-kernels",
    about="attention and experts of the trainer in TF32",
    causes=("tf32-products",),
    family="precision",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
    expected_location=first_attention,
    dtypes=("float32",),
    plant=plant,
)
