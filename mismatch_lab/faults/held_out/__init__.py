"""Faults that nothing was developed on: the held-out part of the scorecard.

They were written by somebody who had not read how causes are recognised, from what goes wrong in
the field. Many have no name among the causes: of these the tool must see that something is wrong,
on which side and where, and must not be sure of another name. To be of use they are not to be
looked at while the attribution is changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from mismatch_lab.faults.base import Fault, by_id, one_of
from mismatch_lab.faults.held_out import attention, layers, logits, mlp, weights

HELD_OUT: dict[str, Fault] = {
    fault.id: fault
    for fault in by_id(attention.FAULTS, layers.FAULTS, logits.FAULTS, mlp.FAULTS, weights.FAULTS)
}


def load_held_out(name: str, among: Mapping[str, Fault] = HELD_OUT) -> Fault:
    """The fault of that id, of this set or of another like it.

    Raises:
        InputError: no such fault; the message lists what there is.
    """
    return one_of(among, "held-out fault", name)
