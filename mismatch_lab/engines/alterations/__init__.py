"""Alterations: one suspected defect planted in the reference for the length of one scoring pass.

If the reference with the defect says what the suspect says, token by token, the defect explains
the suspect. An alteration therefore does what the defect does, not how somebody's code does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from mismatch_lab.registry import resolve
from mismatch_lab.schema import Alteration, OptionValue

if TYPE_CHECKING:
    from torch import nn

    Alter = Callable[[nn.Module, Alteration], AbstractContextManager[None]]

ALTERATIONS = {
    "attention_scale": "mismatch_lab.engines.alterations.attention:attention_scale",
    "attention_softcap": "mismatch_lab.engines.alterations.attention:attention_softcap",
    "drop_sinks": "mismatch_lab.engines.alterations.attention:drop_sinks",
    "sliding_window": "mismatch_lab.engines.alterations.attention:sliding_window",
    "inv_freq_dtype": "mismatch_lab.engines.alterations.rope:inv_freq_dtype",
    "position_offset": "mismatch_lab.engines.alterations.rope:position_offset",
    "rope_attention_factor": "mismatch_lab.engines.alterations.rope:rope_attention_factor",
    "rope_default": "mismatch_lab.engines.alterations.rope:rope_default",
    "rope_dtype": "mismatch_lab.engines.alterations.rope:rope_dtype",
    "rope_factor": "mismatch_lab.engines.alterations.rope:rope_factor",
    "rope_theta": "mismatch_lab.engines.alterations.rope:rope_theta",
    "final_softcap": "mismatch_lab.engines.alterations.head:final_softcap",
    "head_dtype": "mismatch_lab.engines.alterations.head:head_dtype",
    "head_scale": "mismatch_lab.engines.alterations.head:head_scale",
    "logits_dtype": "mismatch_lab.engines.alterations.head:logits_dtype",
    "pad_vocabulary": "mismatch_lab.engines.alterations.head:pad_vocabulary",
    "norm_dtype": "mismatch_lab.engines.alterations.norms:norm_dtype",
    "norm_eps": "mismatch_lab.engines.alterations.norms:norm_eps",
    "expert_bias_zero": "mismatch_lab.engines.alterations.moe:expert_bias_zero",
    "expert_gate_up_order": "mismatch_lab.engines.alterations.moe:expert_gate_up_order",
    "router_bias_zero": "mismatch_lab.engines.alterations.moe:router_bias_zero",
    "norm_topk": "mismatch_lab.engines.alterations.router:norm_topk",
    "routed_scale": "mismatch_lab.engines.alterations.router:routed_scale",
    "router_dtype": "mismatch_lab.engines.alterations.router:router_dtype",
    "top_k": "mismatch_lab.engines.alterations.router:top_k",
    "all_products": "mismatch_lab.engines.alterations.products:all_products",
    "attention_products": "mismatch_lab.engines.alterations.products:attention_products",
    "expert_products": "mismatch_lab.engines.alterations.products:expert_products",
    "projection_products": "mismatch_lab.engines.alterations.products:projection_products",
    "kv_dtype": "mismatch_lab.engines.alterations.cache:kv_dtype",
    "weights_from": "mismatch_lab.engines.alterations.weights:weights_from",
    "weight_dtype": "mismatch_lab.engines.alterations.quantised:weight_dtype",
}
"""name -> function (model, alteration) -> context manager; NotApplicableError where the model has
no such part. Another one is one function and one row."""


CONTROLS: dict[str, OptionValue] = {"attention_products": "exact", "norm_dtype": "exact"}
"""Alterations that put code of ours where the model's own stands -> the value at which that code
changes nothing. If the model then says something else, its own code is in doubt, and what the
alteration predicts is no prediction."""


@contextmanager
def altered(model: nn.Module, alterations: tuple[Alteration, ...]) -> Iterator[None]:
    """The model with all alterations inside the block, and exactly as before after it.

    Raises:
        NotApplicableError: the model has no part that an alteration changes.
    """
    with ExitStack() as stack:
        for alteration in alterations:
            alter: Alter = resolve("alteration", alteration.name, ALTERATIONS)
            stack.enter_context(alter(model, alteration))
        yield
