"""The trainer renormalises the weights of the chosen experts, and the model was trained without."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.modules import routers, share_of


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers they sum to 1."""
    for router in share_of(routers(model), strength):
        router.norm_topk_prob = True


def shares_of_all(model_type: str, config: Config) -> bool:
    """Weights are shares among all experts."""
    return is_moe(model_type, config) and config.get("norm_topk_prob") is False


FAULT = Fault(
    id="router-renormalised",
    about="weights of the chosen experts renormalised in the trainer",
    causes=("router-renormalisation",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=shares_of_all,
    expected_location=first_experts,
    plant=plant,
)
