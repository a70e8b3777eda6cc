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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.engines.fingerprint import fingerprint_tensors
from mismatch_lab.engines.vllm_update import whole_state
from mismatch_lab.findings.weights import compared_tensors, differing_tensors, fused
from mismatch_lab.remedies import fp32_head
from mismatch_lab.trainer.rollout import Transfer

Moments = dict[str, dict[str, float]]
PACKED_TOLERANCE = 1e-5
"""Of what a packed matrix gives for a fixed input: a float32 product, summed in another order."""
TOLERANCE = 1e-6
PROBE_ROWS = 8
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Held:
    """What one worker of the engine holds after it was given weights."""

    error: str
    readable: Moments
    packed: Moments
    expected: Moments
    """Of what was sent, by rank 0 alone."""
    products: Moments
    float32: bool
    n_sent: int


def transfer(llm: Any, folder: str) -> Transfer:
    """Give a running engine the weights of a checkpoint folder.

    Args:
        llm: `vllm.LLM`; with tensor parallelism its model is spread over processes.
        folder: the checkpoint.

    Returns:
        What could be confirmed; vLLM's own error stands in place of the stale tensors.
    """
    held: list[Held] = llm.collective_rpc(take, args=(folder,))
    errors = tuple(sorted({one.error for one in held if one.error}))
    return Transfer(held[0].n_sent, 0, errors) if errors else compare(held)


def take(worker: Any, folder: str) -> Held:
    """In a worker of vLLM: load the weights, and look at what is there."""
    model, sent = worker.get_model(), dict(whole_state(folder))
    if not hasattr(model, "lm_head"):  # a head that is the embedding itself
        sent.pop("lm_head.weight", None)
    for module in model.modules():
        if type(module).__name__ == "RoutedExperts" and _on_cpu(model):
            module.quant_method.moe_kernel = None
    try:
        worker.reload_weights(weights_iterator=iter(sent.items()))
        if _on_cpu(model) and worker.parallel_config.tensor_parallel_size == 1:
            _copy_gpt_oss(model, sent)
    except Exception as error:  # whatever it is, a new engine mends it
        traceback.print_exc()
        return Held(f"{type(error).__name__}: {error}"[:200], {}, {}, {}, {}, True, len(sent))
    if "lm_head.weight" in sent:
        fp32_head.renew(model, sent["lm_head.weight"])
    return look(model, sent, first=worker.rank == 0)


def look(model: nn.Module, sent: Mapping[str, Tensor], first: bool) -> Held:
    """Fingerprints of what a worker holds and, where it is the first, of what was sent.

    They are sums, so that fused, reordered, packed and divided tensors compare. Matrices that
    oneDNN keeps where nobody can read them are compared by what they give for a fixed input.
    """
    dtype = next(model.parameters()).dtype
    cast = {name: tensor.to(dtype) for name, tensor in sent.items()} if first else {}
    return Held(
        "",
        fingerprint_tensors({n: p for n, p in model.named_parameters() if p.numel() > 0}),
        _probe_packed(model),
        fingerprint_tensors(cast),
        {name: _probe(tensor) for name, tensor in cast.items() if tensor.ndim == 2},
        dtype == torch.float32,
        len(sent),
    )


def compare(held: Sequence[Held]) -> Transfer:
    """Hold what all workers have against what the first was sent."""
    first = held[0]
    readable, packed = [one.readable for one in held], [one.packed for one in held]
    tolerance = PACKED_TOLERANCE if first.float32 else 1e-2
    stale = _differing(readable, first.expected) | _differing(packed, first.products, tolerance)
    compared = compared_tensors(readable[0], first.expected)
    compared += compared_tensors(packed[0], first.products)
    return Transfer(first.n_sent, compared, tuple(sorted(stale)))


def _differing(
    parts: Sequence[Moments], expected: Moments, tolerance: float | None = None
) -> set[str]:
    """A tensor is whole on every worker, or divided over them: then the parts add up.

    One that is neither (key heads fewer than workers, in a fused tensor) is named, though it may
    be right: the engine is then started anew.
    """
    held, wanted = [fused(part) for part in parts], fused(expected)
    names = wanted.keys() & held[0].keys()
    whole = {n for n in names if all(h[n]["numel"] >= wanted[n]["numel"] for h in held)}
    shown = [{name: one[name] for name in whole} for one in held]
    shown.append(
        {n: {key: sum(h[n][key] for h in held) for key in wanted[n]} for n in names - whole}
    )
    return {name for one in shown for name in differing_tensors(one, wanted, True, tolerance)}


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


@torch.no_grad()
def _probe_packed(model: nn.Module) -> Moments:
    found: Moments = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not hasattr(module, "cpu_linear") or weight is None or weight.numel() > 0:
            continue
        width = int(module.input_size if hasattr(module, "input_size") else module.embedding_dim)
        if getattr(module, "input_size_per_partition", width) != width:
            continue  # its product is a part of a sum: nothing to compare it with
        product = module.cpu_linear(_inputs(width).to(weight.dtype), weight, None)
        found |= fingerprint_tensors({f"{name}.weight": product})
    return found


def _probe(matrix: Tensor) -> dict[str, float]:
    product = _inputs(matrix.shape[1]).to(matrix.dtype) @ matrix.T
    return fingerprint_tensors({"product": product})["product"]


def _inputs(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn(PROBE_ROWS, width, generator=generator)
