"""One side in fewer bits: head, norms, routers, products, log-probs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.faults.architectures import first_attention, first_router, head, is_moe
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.modules import (
    best,
    layers,
    norms,
    replace_router,
    router_logits,
    routers,
    share_of,
    weights_of,
    wrap_attention,
    wrap_forward,
)
from mismatch_lab.faults.rows import some_rows

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.modules import Routed


def narrow_head(model: Any, strength: str) -> None:
    """The trainer computes its head in fewer bits than the engine.

    The head in the dtype `strength`; with `-inputs` its products are summed in fp32.
    """
    import torch
    from torch.nn import functional

    name, _, inputs_only = strength.partition("-")
    dtype = getattr(torch, name)

    def narrow(module: Any, args: Any, output: Any) -> Any:
        hidden, weight = args[0].to(dtype), module.weight.to(dtype)
        if inputs_only:
            hidden, weight = hidden.float(), weight.float()
        return functional.linear(hidden, weight).to(output.dtype)

    model.get_output_embeddings().register_forward_hook(narrow)


def narrow_in_transport(capture: Capture, strength: str) -> Capture:
    """Log-probs travel from sampler to trainer in fewer bits.

    The log-probs as the dtype holds them.
    """
    return replace(capture, logp=narrowed(capture.logp, strength))


def narrowed(logp: Float32, dtype: str) -> Float32:
    """Round to nearest (even) in bfloat16, or to so many decimals of a JSON (`decimals-3`)."""
    if dtype.startswith("decimals-"):
        return np.round(logp, int(dtype.removeprefix("decimals-")))
    bits = logp.view(np.uint32)
    even = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    kept = (even & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(logp), logp, kept).astype(np.float32)


def narrow_log_softmax(capture: Capture, strength: float) -> Capture:
    """The trainer's log-softmax stays in the model's bf16.

    In a share of the rows log-probs, of whole distributions too, are on the grid of bf16.
    """
    rows = capture.rows.row_ids()
    chosen = np.isin(np.arange(capture.rows.n_rows), some_rows(capture, strength))[rows]
    logp = np.where(chosen, narrowed(capture.logp, "bfloat16"), capture.logp)
    probes = capture.probe_logp
    if probes is not None:
        at = chosen[capture.probe_positions, None]
        probes = np.where(at, narrowed(probes, "bfloat16"), probes)
    return replace(capture, logp=logp, probe_logp=probes)


def narrow_norms(model: Any, strength: float) -> None:
    """The trainer's RMSNorms compute mean square and product in bf16.

    The first `strength` share of the norms.
    """
    import torch

    def narrow(module: Any, args: Any, output: Any) -> Any:
        x = args[0].to(torch.bfloat16)
        eps = getattr(module, "variance_epsilon", None) or module.eps
        mean_square = x.pow(2).mean(-1, keepdim=True)
        weight = module.weight.to(torch.bfloat16)
        gain = 1 + weight if type(module).__name__.startswith("Gemma") else weight
        return (x * torch.rsqrt(mean_square + eps) * gain).to(output.dtype)

    for norm in share_of(norms(model), strength):
        norm.register_forward_hook(narrow)


def first_norm(config: Config) -> str:
    del config
    return "model.layers.0.input_layernorm"


TENSOR_CORES_READ = -(1 << 13)
"""Mask of a float32's bits."""


BLOCK = 16
"""Keys at a time, as flash kernels take them; theirs are longer, and so are their sequences."""


def use_tf32(model: Any, strength: float) -> None:
    """The trainer's flash kernel and its experts multiply float32 in TF32.

    In the first `strength` share of the layers.
    """
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


def narrow_routers(model: Any, strength: float) -> None:
    """The trainer's routers compute in bf16.

    The first `strength` share of the routers.
    """
    for router in share_of(routers(model), strength):
        replace_router(router, partial(_route_in_bf16, router))


def _route_in_bf16(router: Any, hidden: Tensor) -> Routed:
    import torch
    from torch.nn import functional

    narrow = torch.bfloat16
    bias = getattr(router, "bias", None)
    logits = functional.linear(
        hidden.to(narrow), router.weight.to(narrow), None if bias is None else bias.to(narrow)
    ).to(hidden.dtype)
    chosen = best(router, logits)
    return logits, weights_of(router, logits, chosen).to(narrow).to(hidden.dtype), chosen


def add_router_noise(model: Any, strength: float) -> None:
    """A router kernel with large rounding errors: every router logit is a little off.

    Noise of `strength` times the logits' deviation, the same whenever the input is.
    """
    for router in routers(model):
        replace_router(router, partial(_route_with_noise, router, strength))


def _route_with_noise(router: Any, strength: float, hidden: Tensor) -> Routed:
    exact = router_logits(router, hidden)
    # A rounding error depends on the last bits of the input: the digits that are left of a large
    # multiple stand for them.
    digits = (1e3 * exact.double()).sin().to(exact.dtype)
    logits = exact + strength * exact.std(-1, keepdim=True) * digits
    chosen = best(router, logits)
    return logits, weights_of(router, logits, chosen), chosen


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="lm-head-bf16",
        about="head of the trainer in bf16, of the engine in fp32",
        causes=("lm-head-precision",),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": "bfloat16", "medium": "bfloat16-inputs", "slight": "float16"},
        expected_location=head,
        dtypes=("float32",),
        plant=narrow_head,
    ),
    Fault(
        id="log-softmax-bf16",
        about="log-softmax of the trainer in bf16",
        causes=("logprob-precision",),
        family="precision",
        side="train",
        kind="capture",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        rewrite=narrow_log_softmax,
        target="train",
    ),
    Fault(
        id="norm-bf16",
        about="RMSNorm of the trainer in bf16",
        causes=("norm-precision",),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
        expected_location=first_norm,
        dtypes=("float32",),
        plant=narrow_norms,
    ),
    Fault(
        id="tf32-kernels",
        about="attention and experts of the trainer in TF32",
        causes=("tf32-products",),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
        expected_location=first_attention,
        dtypes=("float32",),
        plant=use_tf32,
    ),
    Fault(
        id="router-bf16",
        about="routers of the trainer in bf16",
        causes=("router-precision",),
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_moe,
        expected_location=first_router,
        dtypes=("float32",),
        plant=narrow_routers,
    ),
    Fault(
        id="router-noise",
        about="router logits of the trainer with rounding-like noise",
        causes=("router-precision", "routing-flips"),
        why_several="Noise of no known format: a router in too few bits and flips from numerics "
        "are the same observation.",
        family="precision",
        side="train",
        kind="plugin",
        severities={"plain": 0.3, "medium": 0.03, "slight": 0.005},
        applies=is_moe,
        expected_location=first_router,
        plant=add_router_noise,
    ),
    Fault(
        id="transport-bf16",
        about="the engine's log-probs stored in bf16, or with few decimals, on their way",
        causes=("logprob-precision",),
        family="precision",
        side="sync",
        kind="capture",
        severities={"plain": "decimals-2", "medium": "bfloat16", "slight": "decimals-3"},
        rewrite=narrow_in_transport,
        target="decode",
    ),
)
