"""Defects of routers and experts."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis, Search
from mismatch_lab.schema import Alteration, OptionValue

EXPERTS = "mlp"


def _in_experts(
    clues: Clues, cause: str, label: str, name: str, value: OptionValue | None = None
) -> list[Hypothesis]:
    if not clues.is_moe:
        return []
    return [
        Hypothesis(
            cause,
            label,
            model=(Alteration(name=name, value=value),),
            location=f"model.layers.0.{EXPERTS}",
            part=EXPERTS,
        )
    ]


def renormalisation(clues: Clues) -> list[Hypothesis]:
    """Weights of the chosen experts: renormalised or not, or all times a constant."""
    cause = "router-renormalisation"
    found = _in_experts(
        clues, cause, "weights of the chosen experts renormalised where they are not, or not where "
        "they are", "norm_topk",
    )  # fmt: skip
    for scaled in _in_experts(
        clues, cause, "weights of the chosen experts times a constant", "routed_scale"
    ):
        from dataclasses import replace

        search = Search((0.5, 0.8, 1.25, 2.0, 2.5), "log")
        found.append(replace(scaled, search=search, fitted=1))
    return found


def router_bias(clues: Clues) -> list[Hypothesis]:
    """The router's bias missing."""
    return _in_experts(clues, "router-bias", "the router's bias is missing", "router_bias_zero")


def expert_bias(clues: Clues) -> list[Hypothesis]:
    """The experts' biases missing."""
    return _in_experts(clues, "expert-bias", "the experts' biases are missing", "expert_bias_zero")


def expert_layout(clues: Clues) -> list[Hypothesis]:
    """Gate and up taken for each other, or their layout."""
    labels = {
        "swapped": "gate and up of the experts taken for each other",
        "split": "gate and up taken as halves",
        "interleaved": "gate and up taken as alternating columns",
    }
    return [
        h
        for value, label in labels.items()
        for h in _in_experts(clues, "expert-layout", label, "expert_gate_up_order", value)
    ]
