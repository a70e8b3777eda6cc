"""New weights for a vLLM engine that runs, in place, and fingerprints that say they are there.

vLLM's own `reload_weights` reports success whatever it does. On a CPU (0.32) it leaves parts old:

- a tied head, whose packed copy only an `lm_head.weight` of its own reaches (`whole_state` has it);
- experts that a kernel holds: the kernel is dropped first, and made again from what is loaded;
- GPT-OSS's experts and sinks: their loader writes to tensors that the kernel does not read, so
  they are packed and copied here.

The fingerprints do not believe any of this, and what they miss the re-scored rows show.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.engines.fingerprint import fingerprint_tensors
from mismatch_lab.engines.vllm_update import whole_state
from mismatch_lab.findings.weights import compared_tensors, differing_tensors
from mismatch_lab.remedies import fp32_head
from mismatch_lab.trainer.rollout import Transfer

Moments = dict[str, dict[str, float]]
PACKED_TOLERANCE = 1e-5
"""Of what a packed matrix gives for a fixed input: a float32 product, summed in another order."""
TOLERANCE = 1e-6
PROBE_ROWS = 8
_LAYER = re.compile(r"layers\.(\d+)\.")


def transfer(llm: Any, model: nn.Module, folder: str) -> Transfer:
    """Give a running engine the weights of a checkpoint folder.

    Args:
        llm: `vllm.LLM` with its model in this process.
        model: its module.
        folder: the checkpoint.

    Returns:
        What could be confirmed; vLLM's own error stands in place of the stale tensors.
    """
    sent = dict(whole_state(folder))
    if not hasattr(model, "lm_head"):  # a head that is the embedding itself
        sent.pop("lm_head.weight", None)
    for module in model.modules():
        if type(module).__name__ == "RoutedExperts" and _on_cpu(model):
            module.quant_method.moe_kernel = None  # type: ignore[union-attr]
    try:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(sent.items())})
        if _on_cpu(model):
            _copy_gpt_oss(model, sent)
    except Exception as error:  # whatever it is, a new engine mends it
        traceback.print_exc()
        return Transfer(len(sent), 0, (f"{type(error).__name__}: {error}"[:200],))
    if "lm_head.weight" in sent:
        fp32_head.renew(model, sent["lm_head.weight"])
    return verify(model, sent)


@torch.no_grad()
def _copy_gpt_oss(model: nn.Module, sent: Mapping[str, Tensor]) -> None:
    """Experts in the kernel's own order, their biases, and sinks, of every layer."""
    for name, module in model.named_modules():
        layer = _LAYER.search(name)
        if layer is None:
            continue
        stem = f"model.layers.{layer[1]}"
        if type(module).__name__ == "GptOssRoutedExperts":
            _copy_experts(module, sent, f"{stem}.mlp.experts.")
        elif isinstance(getattr(module, "sinks", None), nn.Parameter):
            _fill(module.sinks, sent[f"{stem}.self_attn.sinks"])


def _copy_experts(module: Any, sent: Mapping[str, Tensor], prefix: str) -> None:
    from vllm._custom_ops import cpu_prepack_moe_weight

    kernel = module.quant_method.moe_kernel
    isa = kernel.fused_experts.isa if kernel is not None else "vec"
    for held, name in (("w13", "gate_up_proj"), ("w2", "down_proj")):
        into = getattr(module, f"{held}_weight")
        matrix = sent[prefix + name].to(into.dtype).permute(0, 2, 1).contiguous()
        _fill(into, cpu_prepack_moe_weight(matrix, isa))
        _fill(getattr(module, f"{held}_bias"), sent[f"{prefix}{name}_bias"])


def _fill(into: Tensor, value: Tensor) -> None:
    into.data.copy_(value.to(into.dtype))


def _on_cpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"


def verify(model: nn.Module, sent: Mapping[str, Tensor]) -> Transfer:
    """Compare fingerprints of what the engine holds with those of what it was sent.

    Both are sums, so that fused, reordered and packed tensors compare. Matrices that oneDNN keeps
    where nobody can read them are compared by what they give for a fixed input.
    """
    dtype = next(model.parameters()).dtype
    cast = {name: tensor.to(dtype) for name, tensor in sent.items()}
    held = {n: p for n, p in model.named_parameters() if p.numel() > 0}
    readable, expected = fingerprint_tensors(held), fingerprint_tensors(cast)
    stale = differing_tensors(readable, expected, same_dtype=True)
    packed = _probe_packed(model)
    products = {n: _probe(t) for n, t in cast.items() if t.ndim == 2}
    tolerance = PACKED_TOLERANCE if dtype == torch.float32 else 1e-2
    stale += differing_tensors(packed, products, same_dtype=True, tolerance=tolerance)
    compared = compared_tensors(readable, expected) + compared_tensors(packed, products)
    return Transfer(len(sent), compared, tuple(sorted(set(stale))))


@torch.no_grad()
def _probe_packed(model: nn.Module) -> Moments:
    found: Moments = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not hasattr(module, "cpu_linear") or weight is None or weight.numel() > 0:
            continue
        width = int(module.input_size if hasattr(module, "input_size") else module.embedding_dim)
        product = module.cpu_linear(_inputs(width).to(weight.dtype), weight, None)
        found |= fingerprint_tensors({f"{name}.weight": product})
    return found


def _probe(matrix: Tensor) -> dict[str, float]:
    product = _inputs(matrix.shape[1]).to(matrix.dtype) @ matrix.T
    return fingerprint_tensors({"product": product})["product"]


def _inputs(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn(PROBE_ROWS, width, generator=generator)
