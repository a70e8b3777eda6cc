"""Experts summed in place, without materialising tokens per expert; how: `grouped_experts`."""

from __future__ import annotations

from typing import Any

from mismatch_lab.remedies.base import Memory, Remedy


def use(model: Any) -> None:
    """Change a loaded transformers MoE.

    Raises:
        InputError: its experts cannot be replaced by name.
    """
    from mismatch_lab.remedies.grouped_experts import interface

    interface.use(model)


REMEDY = Remedy(
    id="grouped-experts",
    about="the trainer's experts run one after another and keep nothing for the backward pass",
    formula="out = sum_e w_e (gate(x U_e + u_e) D_e + d_e), recomputed in backward",
    source="LinkedIn, Unlocking Agentic RL Training for GPT-OSS (2026): 180 GiB of materialised "
    "experts; Chen et al. 2016, https://arxiv.org/abs/1604.06174",
    memory=Memory(experts="grouped-experts"),
    change_model=use,
)
"""It mends memory, and no cause of a mismatch."""
