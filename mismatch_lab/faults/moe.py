"""Mixtures of experts: which are chosen, how they are weighed, and how they are stored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, first_router, is_gpt_oss, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import (
    best,
    moe,
    replace_router,
    router_logits,
    routers,
    share_of,
    weights_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mismatch_lab.faults.modules import Routed


def skip_renormalisation(model: Any, strength: float) -> None:
    """The trainer weighs the chosen experts by their share among all of them.

    In the first `strength` share of the layers the weights of the chosen do not sum to 1.
    """
    for router in share_of(routers(model), strength):
        replace_router(router, partial(_route_by_shares, router))


def _route_by_shares(router: Any, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = best(router, logits)
    return logits, logits.float().softmax(-1).gather(-1, chosen).to(logits.dtype), chosen


def select_with_bias(model: Any, strength: float) -> None:
    """A bias that only selects experts (load balancing) is there on one side alone.

    Experts are chosen by logit and bias, and weighed by logit alone.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for router in routers(model):
        bias = strength * torch.randn(len(router.weight), generator=generator)
        replace_router(router, partial(_route_with_bias, router, bias))


def _route_with_bias(router: Any, bias: Tensor, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = best(router, logits + bias.to(logits))
    return logits, weights_of(router, logits, chosen), chosen


def move_router_biases(model: Any, strength: float) -> None:
    """The engine's router biases are those of an earlier version.

    Every router bias moved by `strength` logits, each expert's by its own number.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for router in routers(model):
        step = torch.randn(router.bias.shape, generator=generator)
        router.bias.data.add_(strength * step.to(router.bias))


def near_ties_swapped(router: Any, logits: Tensor, margin: float) -> Tensor:
    """[N, K] the best experts, the last of them exchanged for the next one where both logits are
    within `margin` standard deviations of the token's logits of each other.
    """
    import torch

    top, order = logits.topk(router.top_k + 1, dim=-1)
    close = top[:, -2] - top[:, -1] < margin * logits.std(-1)
    last = torch.where(close, order[:, -1], order[:, -2])
    return torch.cat([order[:, :-2], last[:, None]], dim=-1)


def flip_near_ties(model: Any, strength: float) -> None:
    """Near-ties between experts fall the other way in the trainer.

    The last expert chosen and the first one not, within `strength` deviations, change places.
    """
    for router in routers(model):
        replace_router(router, partial(_route_flipped, router, strength))


def _route_flipped(router: Any, margin: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    chosen = near_ties_swapped(router, logits, margin)
    return logits, weights_of(router, logits, chosen), chosen


def choose_by_shape(model: Any, strength: float) -> None:
    """The trainer's router sums in another order for another batch shape, so near-ties fall anew.

    Experts are chosen by logits with errors that depend on the number of tokens at once.
    """
    for router in routers(model):
        replace_router(router, partial(_route_by_shape, router, strength))


def _route_by_shape(router: Any, strength: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    errors = (1e3 * logits.double() + len(hidden)).sin().to(logits.dtype)
    chosen = best(router, logits + strength * logits.std(-1, keepdim=True) * errors)
    return logits, weights_of(router, logits, chosen), chosen


def flip_in_training(model: Any, strength: float) -> None:
    """The gradient pass (recomputed under checkpointing) picks other experts than the scoring pass.

    In training mode near-ties within `strength` deviations fall the other way.
    """
    for router in routers(model):
        replace_router(router, partial(_route_by_pass, router, strength))


def _route_by_pass(router: Any, margin: float, hidden: Tensor) -> Routed:
    logits = router_logits(router, hidden)
    gradient_pass = router.training
    chosen = near_ties_swapped(router, logits, margin) if gradient_pass else best(router, logits)
    return logits, weights_of(router, logits, chosen), chosen


def swap_gate_and_up(model: Any, strength: float) -> None:
    """The trainer reads the experts' fused gate and up projections in the other layout.

    In the first `strength` share of the layers gate and up are in each other's place.
    """
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts
        interleaved = hasattr(experts, "gate_up_proj_bias")  # GPT-OSS
        axis = 2 if interleaved else 1
        experts.gate_up_proj.data.copy_(swapped(experts.gate_up_proj.data, axis, interleaved))
        if interleaved:
            bias = experts.gate_up_proj_bias.data
            bias.copy_(swapped(bias, 1, interleaved))


def swapped(fused: Tensor, axis: int, interleaved: bool) -> Tensor:
    """Gate and up change places along `axis`, where they alternate or stand one after another."""
    shape = list(fused.shape)
    shape[axis : axis + 1] = [-1, 2] if interleaved else [2, shape[axis] // 2]
    return fused.reshape(shape).flip(axis + interleaved).reshape(fused.shape)


def swap_gate_and_up_in_vllm(model: Any, strength: float) -> None:
    """The engine's loader stores the experts' fused gate and up projections in the other layout.

    vLLM: in the first `strength` share of the layers gate and up change places.
    """
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts.routed_experts
        interleaved = hasattr(experts, "w13_bias")  # GPT-OSS
        for name in ("w13_weight", "w13_bias") if interleaved else ("w13_weight",):
            fused = getattr(experts, name).data
            fused.copy_(swapped(fused, 1, interleaved))


def drop_biases(model: Any, strength: float) -> None:
    """The trainer's expert kernel adds no biases.

    Neither bias in the first `strength` share of the layers.
    """
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts
        experts.gate_up_proj_bias.data.zero_()
        experts.down_proj_bias.data.zero_()


def drop_biases_in_vllm(model: Any, strength: float) -> None:
    """The engine's loader skips the experts' biases.

    vLLM: the second bias is missing in the first `strength` share of the layers.
    """
    for layer in share_of(moe(model), strength):
        layer.mlp.experts.routed_experts.w2_bias.data.zero_()


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="engine-expert-bias",
        about="expert output biases missing in the engine",
        causes=("expert-bias",),
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_gpt_oss,
        expected_location=first_experts,
        engines=("vllm",),
        plant=drop_biases_in_vllm,
    ),
    Fault(
        id="engine-expert-layout",
        about="gate and up projections of the engine's experts swapped",
        causes=("expert-layout",),
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_moe,
        expected_location=first_experts,
        engines=("vllm",),
        plant=swap_gate_and_up_in_vllm,
    ),
    Fault(
        id="expert-bias",
        about="expert biases missing in the trainer",
        causes=("expert-bias",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_gpt_oss,
        expected_location=first_experts,
        plant=drop_biases,
    ),
    Fault(
        id="expert-layout",
        about="gate and up projections of the trainer's experts swapped",
        causes=("expert-layout",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_moe,
        expected_location=first_experts,
        plant=swap_gate_and_up,
    ),
    Fault(
        id="near-tie-flips",
        about="near-ties between experts resolved the other way in the trainer",
        causes=("routing-flips",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        applies=is_moe,
        expected_location=first_experts,
        plant=flip_near_ties,
    ),
    Fault(
        id="renormalisation-off",
        about="weights of the chosen experts not renormalised in the trainer",
        causes=("router-renormalisation",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
        applies=is_moe,
        expected_location=first_experts,
        plant=skip_renormalisation,
    ),
    Fault(
        id="router-bias-stale",
        about="router biases of the engine out of date",
        causes=("router-bias", "stale-tensor"),
        why_several="A bias that a sync left out is both the tensor that is stale and the bias "
        "that differs.",
        family="moe",
        side="infer",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.1, "slight": 0.01},
        applies=is_gpt_oss,
        expected_location=first_router,
        plant=move_router_biases,
    ),
    Fault(
        id="selection-bias",
        about="experts of the trainer selected with a bias that the engine lacks",
        causes=("router-bias",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 0.5, "medium": 0.1, "slight": 0.01},
        applies=is_moe,
        expected_location=first_experts,
        plant=select_with_bias,
    ),
    Fault(
        id="two-pass-shape",
        about="experts chosen in the trainer depend on the micro-batch",
        causes=("routing-two-pass",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        applies=is_moe,
        expected_location=first_experts,
        plant=choose_by_shape,
    ),
    Fault(
        id="two-pass-training",
        about="experts chosen in the trainer's gradient pass differ from its scoring pass",
        causes=("routing-two-pass",),
        family="moe",
        side="train",
        kind="plugin",
        severities={"plain": 0.3, "medium": 0.05, "slight": 0.01},
        applies=is_moe,
        expected_location=first_experts,
        plant=flip_in_training,
    ),
)
