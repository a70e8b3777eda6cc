"""New weights for a vLLM engine that runs, in place, and fingerprints that say they are there.

vLLM's own `reload_weights` reports success whatever it does. On a CPU (0.32) it leaves parts old:

- a tied head, whose packed copy only an `lm_head.weight` of its own reaches (`whole_state` has it);
- experts that a kernel holds: the kernel is dropped first, and made again from what is loaded;
- GPT-OSS's experts and sinks: their loader writes to tensors that the kernel does not read, so
  they are packed and copied here.

The fingerprints do not believe any of this: what kernels read is held against what was sent.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.fingerprint import fingerprint_tensor, fingerprint_tensors
from mismatch_lab.engines.vllm_weights import copied_fingerprints, held_fingerprints
from mismatch_lab.engines.whole_state import whole_state
from mismatch_lab.findings.weights import compare_weights
from mismatch_lab.remedies import fp32_head
from mismatch_lab.trainer.rollout import Transfer

Fingerprints = dict[str, Fingerprint]
HEAD = "lm_head.weight"
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Held:
    """What one worker of the engine holds."""

    error: str
    """vLLM's own, where it refused what it was given."""
    parameters: Fingerprints
    copies: Fingerprints
    """Of what kernels read in place of parameters or beside them."""
    expected: Fingerprints
    """Of the checkpoint, by rank 0 alone."""


def transfer(llm: Any, folder: str) -> Transfer:
    """Give a running engine the weights of a checkpoint folder.

    Args:
        llm: `vllm.LLM`; with tensor parallelism its model is spread over processes.
        folder: the checkpoint.

    Returns:
        What could be confirmed.
    """
    return compare(llm.collective_rpc(take, args=(folder,)))


def verify(llm: Any, folder: str) -> Transfer:
    """Hold what a running engine has against a checkpoint folder, and give it nothing."""
    return compare(llm.collective_rpc(look, args=(folder,)))


def take(worker: Any, folder: str) -> Held:
    """In a worker of vLLM: load the weights, and look at what is there."""
    model, sent = worker.get_model(), dict(whole_state(folder))
    if not hasattr(model, "lm_head"):  # a head that is the embedding itself
        sent.pop(HEAD, None)
    for module in model.modules():
        if type(module).__name__ == "RoutedExperts" and _on_cpu(model):
            module.quant_method.moe_kernel = None
    try:
        worker.reload_weights(weights_iterator=iter(sent.items()))
        if _on_cpu(model) and worker.parallel_config.tensor_parallel_size == 1:
            _copy_gpt_oss(model, sent)
    except Exception as error:  # whatever it is, a new engine mends it
        traceback.print_exc()
        return Held(f"{type(error).__name__}: {error}"[:200], {}, {}, {})
    if HEAD in sent:
        dtype = next(model.parameters()).dtype
        fp32_head.renew(model, sent[HEAD].to(dtype))  # as the trainer's head is rounded
    return look(worker, folder)


def look(worker: Any, folder: str) -> Held:
    """In a worker of vLLM: fingerprints of what it holds and, in the first, of the checkpoint."""
    model: nn.Module = worker.get_model()
    device = next(model.parameters()).device
    sent = whole_state(folder) if worker.rank == 0 else ()
    expected = fingerprint_tensors((name, tensor.to(device)) for name, tensor in sent)
    copies, head = copied_fingerprints(model), fp32_head.held(model)
    if head is not None:
        copies[HEAD] = fingerprint_tensor(head)
    return Held("", held_fingerprints(model, by_expert=True), copies, expected)


def compare(held: Sequence[Held]) -> Transfer:
    """Hold what all workers have against what the checkpoint has."""
    errors = sorted({one.error for one in held if one.error})
    if errors:
        return Transfer(0, 0, error="; ".join(errors))
    expected = held[0].expected
    if all(
        HEAD not in one.parameters for one in held
    ):  # one that is the embedding is held against the embedding
        expected = {name: one for name, one in expected.items() if name != HEAD}
    parameters = compare_weights([one.parameters for one in held], expected)
    copies = compare_weights([one.copies for one in held], expected)
    return Transfer(
        len(expected),
        len(expected) - len(parameters.unseen),
        tuple(sorted({*parameters.differing, *copies.differing})),
        parameters.unseen,
    )


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
