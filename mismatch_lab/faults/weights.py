"""Weights that did not arrive, were quantised, or are corrupt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mismatch_lab.faults.architectures import (
    first_attention,
    head,
    is_moe,
    is_tied,
    middle,
    middle_layer,
)
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.checkpoints import (
    ADAPTED,
    model_config,
    put_back,
    put_back_all,
    read_tensors,
)
from mismatch_lab.faults.modules import is_vllm, layers, self_attention
from mismatch_lab.faults.rounding import scaled_rounded


def keep_old_weights(model: Any, before: Path) -> None:
    """The weight sync does not happen: the engine stays one update behind.

    Every tensor stays as it was.
    """
    put_back_all(model, before)


STALE = "self_attn.k_proj.weight"


def keep_old_tensor(model: Any, before: Path) -> None:
    """A weight sync forgets one tensor.

    The key projection of the middle layer stays as it was.
    """
    name = f"model.layers.{middle_layer(model_config(before))}.{STALE}"
    put_back(model, read_tensors(before, lambda other: other == name).items())


EMBEDDING = "model.embed_tokens.weight"


def untie_head(model: Any, before: Path) -> None:
    """Head and embedding are one tensor in the trainer; the engine keeps a head of its own.

    The embedding follows the update, the head stays as it was.
    """
    import torch

    old = read_tensors(before, lambda name: name == EMBEDDING)[EMBEDDING]
    if is_vllm(model):
        _untie_vllm(model, old)
        return
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(old.to(output.weight.dtype), requires_grad=False)


def _untie_vllm(model: Any, old: Any) -> None:
    own_head = copy.deepcopy(model.model.embed_tokens)
    own_head.weight.data[: len(old)].copy_(old)
    model.add_module("untied_head", own_head)  # so that kernels repack it as well
    processor = model.logits_processor

    def compute_logits(hidden_states: Any) -> Any:
        return processor(own_head, hidden_states)

    model.compute_logits = compute_logits


def withhold_adapter(model: Any, before: Path) -> None:
    """LoRA training whose adapter never reaches the engine.

    The adapted projections are those of the base.
    """
    put_back(model, read_tensors(before, lambda name: name.endswith(ADAPTED)).items())


QUANTISED = ("_proj.weight", "_proj", "w13_weight", "w2_weight")
"""Linears and experts, by the ends of their names; norms, routers, embedding and head are not."""


def quantise_linears(model: Any, strength: str) -> None:
    """The engine serves quantised weights, the trainer the originals.

    Each output row of the linears rounded to a format with a scale of its own.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(QUANTISED):
            parameter.data.copy_(scaled_rounded(parameter.data, strength))


NOISED = "self_attn.o_proj"


def noise_tensor(model: Any, strength: float) -> None:
    """One tensor of the engine is corrupt after a reload in pieces.

    Noise of `strength` deviations on the output projection of the middle layer's attention.
    """
    import torch

    layer = layers(model)[middle_layer(model.config.to_dict())]
    weight = self_attention(layer).o_proj.weight.data
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.add_(strength * weight.float().std() * noise.to(weight))


NOISED_EXPERT = 1


def noise_expert(model: Any, strength: float) -> None:
    """One expert of the engine is corrupt after a reload in pieces.

    Noise of `strength` deviations on the second matrix of one expert of the middle layer.
    """
    import torch

    config = model.config.to_dict()
    experts = layers(model)[middle_layer(config)].mlp.experts
    weight = experts.routed_experts.w2_weight if is_vllm(model) else experts.down_proj
    one = weight.data[NOISED_EXPERT]
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    one.add_(strength * one.float().std() * noise.to(one))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="adapter-missing",
        about="the engine samples from the base, without the adapter",
        causes=("adapter-not-delivered",),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        expected_location=first_attention,
        update=withhold_adapter,
        low_rank=True,
    ),
    Fault(
        id="noised-expert",
        about="one expert of the engine holds other numbers",
        causes=("stale-tensor",),
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.2, "slight": 0.05},
        applies=is_moe,
        expected_location=middle("mlp.experts"),
        plant=noise_expert,
    ),
    Fault(
        id="noised-tensor",
        about="one projection of the engine holds other numbers",
        causes=("stale-tensor",),
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
        expected_location=middle(NOISED),
        plant=noise_tensor,
    ),
    Fault(
        id="quantised-weights",
        about="weights of the engine quantised",
        causes=("weight-quantisation",),
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": "int4", "medium": "float8_e4m3fn", "slight": "int8"},
        expected_location=first_attention,
        plant=quantise_linears,
    ),
    Fault(
        id="stale-tensor",
        about="one tensor of the engine left out of the weight sync",
        causes=("stale-tensor",),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.5, "medium": 0.1, "slight": 0.02},
        expected_location=middle(STALE),
        update=keep_old_tensor,
    ),
    Fault(
        id="stale-weights",
        about="no tensor of the engine follows the update",
        causes=("stale-weights",),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.05, "medium": 0.01, "slight": 0.002},
        update=keep_old_weights,
    ),
    Fault(
        id="untied-head",
        about="a head of the engine's own, left out of the weight sync",
        causes=("untied-head",),
        family="weights",
        side="sync",
        kind="update",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        applies=is_tied,
        expected_location=head,
        update=untie_head,
    ),
)
