"""Ways to run experts: transformers' own, what it did in eval mode before 5, and ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mismatch_lab.remedies.grouped_experts import interface

REPEAT = "repeat"
WAYS = ("eager", "grouped_mm", "batched_mm", REPEAT, interface.NAME)


def register_ways() -> None:
    """Make all of `WAYS` known to transformers."""
    interface.register()
    ALL_EXPERTS_FUNCTIONS.register(REPEAT, repeat_forward)


def repeat_forward(module: Any, hidden: Tensor, chosen: Tensor, routing: Tensor) -> Tensor:
    """The operations of `GptOssExperts.forward` in transformers 4.56: it looks at the mode.

    Source: modeling_gpt_oss.py of transformers 4.56.0, lines 98 to 135. In train mode, or on a
    CPU, that was the loop over experts that is `eager` today; here only the mode decides, so that
    the path can be looked at on a CPU.
    """
    if module.training:
        eager = type(module).forward.__wrapped__  # what `experts_implementation` wraps
        return eager(module, hidden, chosen, routing)  # type: ignore[no-any-return]
    experts, width = module.num_experts, hidden.shape[1]
    scores = torch.zeros(len(hidden), experts, dtype=routing.dtype, device=routing.device)
    scores = scores.scatter(1, chosen, routing)
    repeated = hidden.repeat(experts, 1).view(experts, -1, width)
    gate_up = torch.bmm(repeated, module.gate_up_proj) + module.gate_up_proj_bias[..., None, :]
    states = torch.bmm(module._apply_gate(gate_up), module.down_proj)
    states = states + module.down_proj_bias[..., None, :]
    out: Tensor = (states * scores.transpose(0, 1)[..., None]).sum(dim=0)
    return out
