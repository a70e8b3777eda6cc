"""Routing replay (R3): the trainer's routers choose the experts that the engine chose."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mismatch_lab.errors import InputError
from mismatch_lab.remedies.base import Remedy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mismatch_lab.trainer.config import TrainConfig


def replaying(model: nn.Module, choices: Tensor) -> AbstractContextManager[None]:
    """Inside the block routers follow the choices, router weights and gradients stay their own.

    Args:
        model: a transformers MoE.
        choices: [B, n, L, K], laid out as the batch; -1 leaves a router its own.

    Raises:
        InputError: the choices are of another number of layers.
    """
    from mismatch_lab.engines.torch_routing import find_routers
    from mismatch_lab.engines.torch_routing_replay import RoutingReplay

    return RoutingReplay.of_batch(find_routers(model), choices).attached()


def refuse_checkpointing(config: TrainConfig) -> None:
    """Raise InputError where layers are computed again."""
    if config.optim.checkpoint_activations:
        raise InputError(
            "Layers that are computed again in backward would not replay the engine's routing.",
            "Leave out optim.checkpoint_activations or the fix routing-replay.",
        )


REMEDY = Remedy(
    id="routing-replay",
    about="the engine's experts of every sampled token are used in the trainer's forward",
    formula="g_i = I_infer,i exp(s_train,i) / sum_j I_infer,j exp(s_train,j)",
    source="Ma et al. 2025, Stabilizing MoE RL by Aligning Training and Inference Routers, "
    "https://arxiv.org/abs/2510.11370",
    removes=("routing-flips", "routing-two-pass", "router-precision"),
    engine="vllm in one process",
    refuse=refuse_checkpointing,
    records="routing",
    around_forward=replaying,
)
