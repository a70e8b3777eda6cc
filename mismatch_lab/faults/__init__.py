"""Plantable faults, for the scorecard: one module a family, with what plants them and its rows.

A fault is a defect as it happens in the field: a kernel without sinks, a glue that loses a token, a
sync that forgets a tensor. Nothing here knows how causes are recognised. To add one: a function
that plants it and a row of `FAULTS`, both in its family's module. Two families have two modules:
`semantics` is logits and sampling, `attention` is attention and rope.
"""

from __future__ import annotations

from mismatch_lab.faults import (
    attention,
    cache,
    logits,
    moe,
    precision,
    record,
    rope,
    sampling,
    tokens,
    trainer,
    weights,
)
from mismatch_lab.faults.base import Fault, by_id, one_of

FAULTS: dict[str, Fault] = {
    fault.id: fault
    for fault in (
        *by_id(logits.FAULTS, sampling.FAULTS),
        *precision.FAULTS,
        *by_id(tokens.FAULTS),
        *by_id(attention.FAULTS, rope.FAULTS),
        *by_id(cache.FAULTS),
        *by_id(moe.FAULTS),
        *by_id(weights.FAULTS),
        *by_id(trainer.FAULTS),
        *by_id(record.FAULTS),
    )
}
"""By id, in the order in which the card plants them."""


def load_fault(name: str) -> Fault:
    """The fault of that id.

    Raises:
        InputError: no such fault; the message lists what there is.
    """
    return one_of(FAULTS, "fault", name)
