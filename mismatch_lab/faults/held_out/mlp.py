"""MLPs and experts: activations, routing, layout, shards."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe, middle
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import (
    UNLISTED,
    first_layer,
    gate_up,
    is_dense,
    middle_of,
    round_inputs,
)
from mismatch_lab.faults.modules import is_vllm, layers, moe, routers, share_of
from mismatch_lab.faults.rounding import scaled_rounded


def exchange_activation(model: Any, strength: float) -> None:
    """The trainer's MLPs have the activation of another model.

    GELU for SiLU, SiLU for GPT-OSS's sharper one and for GELU, in a share of the layers.
    """
    from torch import nn

    for layer in share_of(layers(model), strength):
        block = getattr(layer.mlp, "experts", layer.mlp)
        if hasattr(block, "alpha"):
            block.alpha = 1.0
        for name in ("act_fn", "activation_fn"):
            if hasattr(block, name):
                silu = "SiLU" in type(getattr(block, name)).__name__
                setattr(block, name, nn.GELU() if silu else nn.SiLU())


def swap_gate_and_up(model: Any, strength: float) -> None:
    """The engine's loader fills gate and up of one layer in the wrong order.

    In the middle layer, in the first `strength` share of the rows (one rank's shard).
    """
    gate, up = gate_up(middle_of(model).mlp)
    rows = max(1, round(strength * len(gate)))
    kept = gate[:rows].clone()
    gate[:rows] = up[:rows]
    up[:rows] = kept


def lose_shard(model: Any, strength: float) -> None:
    """One rank's part of an MLP is missing from the engine's sum.

    The last `strength` share of the inner dimensions of the middle layer adds nothing.
    """
    mlp = middle_of(model).mlp
    if not hasattr(mlp, "experts"):
        down = mlp.down_proj.weight.data
    elif is_vllm(model):
        down = mlp.experts.routed_experts.w2_weight.data
    else:
        down = mlp.experts.down_proj.data
        if hasattr(mlp.experts, "down_proj_bias"):  # GPT-OSS: [E, I, D]
            down = down.transpose(1, 2)
    missing = max(1, round(strength * down.shape[-1]))
    down[..., -missing:] = 0.0


def renormalise(model: Any, strength: float) -> None:
    """The trainer renormalises the chosen experts' weights, and the model was trained without.

    In the first `strength` share of the layers they sum to 1.
    """
    for router in share_of(routers(model), strength):
        router.norm_topk_prob = True


def shares_of_all(model_type: str, config: Config) -> bool:
    """Weights are shares among all experts."""
    return is_moe(model_type, config) and config.get("norm_topk_prob") is False


def change_top_k(model: Any, strength: float) -> None:
    """The trainer's config has another number of experts for each token.

    One expert less (strength below 0) or more, in a share of the layers.
    """
    for router in share_of(routers(model), abs(strength)):
        router.top_k += 1 if strength > 0 else -1


def limit_capacity(model: Any, strength: float) -> None:
    """The trainer's experts drop the tokens beyond their capacity.

    Each expert takes `strength` times its even share of the batch, first come first served.
    """
    for router in routers(model):
        router.register_forward_hook(partial(_drop, strength))


def _drop(factor: float, router: Any, _args: Any, output: Any) -> Any:
    from torch.nn import functional

    logits, weights, chosen = output
    capacity = math.ceil(factor * chosen.numel() / logits.shape[-1])
    asked = functional.one_hot(chosen.flatten(), logits.shape[-1])  # [N * K, E]
    place = (asked.cumsum(0) * asked).sum(-1).view_as(chosen)
    return logits, weights.masked_fill(place > capacity, 0.0), chosen


def exchange_experts(model: Any, strength: float) -> None:
    """The engine's map of experts to ranks is wrong in one layer.

    In the middle layer so many experts change places with those half way on.
    """
    import torch

    for parameter in middle_of(model).mlp.experts.parameters():
        half = len(parameter) // 2
        count = min(int(strength), half)
        order = torch.arange(len(parameter))
        order[:count] += half
        order[half : half + count] -= half
        parameter.data.copy_(parameter.data[order].clone())


def round_dispatch(model: Any, strength: str) -> None:
    """The engine sends tokens to their experts in eight bits.

    What reaches the experts is rounded, each token with a scale of its own.
    """
    for layer in moe(model):
        round_inputs(layer.mlp.experts, lambda hidden: scaled_rounded(hidden, strength))


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="activation",
        about="wrong activation in the MLPs of the trainer",
        causes=(UNLISTED,),
        family="mlp",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        expected_location=first_layer("mlp"),
        plant=exchange_activation,
    ),
    Fault(
        id="expert-capacity",
        about="tokens over the capacity of an expert dropped in the trainer",
        causes=(UNLISTED, "batch-variance"),
        why_several="who is dropped depends on the micro-batch",
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 1.5, "slight": 2.0},
        applies=is_moe,
        expected_location=first_experts,
        plant=limit_capacity,
    ),
    Fault(
        id="experts-exchanged",
        about="experts of one layer of the engine in each other's place",
        causes=(UNLISTED, "expert-layout", "stale-tensor"),
        why_several="another order of experts is a layout, and other numbers in the tensors",
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": 4, "medium": 2, "slight": 1},
        applies=is_moe,
        expected_location=middle("mlp.experts"),
        plant=exchange_experts,
    ),
    Fault(
        id="fp8-dispatch",
        about="inputs of the engine's experts in fp8",
        causes=(UNLISTED,),
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": "float8_e5m2", "medium": "float8_e4m3fn", "slight": "int8"},
        applies=is_moe,
        expected_location=first_experts,
        plant=round_dispatch,
    ),
    Fault(
        id="gate-up-swapped",
        about="gate and up of one layer of the engine swapped",
        causes=(UNLISTED, "stale-tensor"),
        why_several="tensors then hold other numbers than the checkpoint's",
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.25, "slight": 0.03125},
        applies=is_dense,
        expected_location=middle("mlp"),
        plant=swap_gate_and_up,
    ),
    Fault(
        id="mlp-shard",
        about="one shard of an MLP of the engine missing",
        causes=("stale-tensor", UNLISTED),
        why_several="the shard holds other numbers, or is never added",
        family="weights",
        side="infer",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.125, "slight": 0.03125},
        expected_location=middle("mlp"),
        plant=lose_shard,
    ),
    Fault(
        id="router-renormalised",
        about="weights of the chosen experts renormalised in the trainer",
        causes=("router-renormalisation",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=shares_of_all,
        expected_location=first_experts,
        plant=renormalise,
    ),
    Fault(
        id="router-top-k",
        about="trainer with one expert too few or too many for each token",
        causes=(UNLISTED,),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": -1.0, "medium": 1.0, "slight": 0.25},
        applies=is_moe,
        expected_location=first_experts,
        plant=change_top_k,
    ),
)
