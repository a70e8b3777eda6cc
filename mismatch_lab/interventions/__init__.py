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
    "attention_scale": "mismatch_lab.interventions.attention:attention_scale",
    "attention_softcap": "mismatch_lab.interventions.attention:attention_softcap",
    "drop_sinks": "mismatch_lab.interventions.attention:drop_sinks",
    "sliding_window": "mismatch_lab.interventions.attention:sliding_window",
    "inv_freq_dtype": "mismatch_lab.interventions.rope:inv_freq_dtype",
    "rope_attention_factor": "mismatch_lab.interventions.rope:rope_attention_factor",
    "rope_default": "mismatch_lab.interventions.rope:rope_default",
    "rope_dtype": "mismatch_lab.interventions.rope:rope_dtype",
    "rope_factor": "mismatch_lab.interventions.rope:rope_factor",
    "rope_theta": "mismatch_lab.interventions.rope:rope_theta",
    "final_softcap": "mismatch_lab.interventions.head:final_softcap",
    "head_dtype": "mismatch_lab.interventions.head:head_dtype",
    "logits_dtype": "mismatch_lab.interventions.head:logits_dtype",
    "norm_dtype": "mismatch_lab.interventions.norms:norm_dtype",
    "expert_bias_zero": "mismatch_lab.interventions.moe:expert_bias_zero",
    "expert_gate_up_order": "mismatch_lab.interventions.moe:expert_gate_up_order",
    "router_bias_zero": "mismatch_lab.interventions.moe:router_bias_zero",
    "norm_topk": "mismatch_lab.interventions.router:norm_topk",
    "routed_scale": "mismatch_lab.interventions.router:routed_scale",
    "router_dtype": "mismatch_lab.interventions.router:router_dtype",
    "all_products": "mismatch_lab.interventions.products:all_products",
    "attention_products": "mismatch_lab.interventions.products:attention_products",
    "expert_products": "mismatch_lab.interventions.products:expert_products",
    "projection_products": "mismatch_lab.interventions.products:projection_products",
    "kv_dtype": "mismatch_lab.interventions.cache:kv_dtype",
    "kv_read_back": "mismatch_lab.interventions.cache:kv_read_back",
    "weights_from": "mismatch_lab.interventions.weights:weights_from",
    "weight_dtype": "mismatch_lab.interventions.quantised:weight_dtype",
    "fitted_weights": "mismatch_lab.interventions.fitted:fitted_weights",
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
