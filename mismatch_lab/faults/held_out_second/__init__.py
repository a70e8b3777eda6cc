"""Faults that nothing was developed on, a second set: `--subset held-out-second`.

Written after the causes had been changed with the first set's misses in sight, by somebody who had
read neither the attribution nor the published cards. As with the first set, they are not to be
looked at while the attribution is changed.
"""

from __future__ import annotations

from mismatch_lab.faults.base import Fault, by_id
from mismatch_lab.faults.held_out_second import attention, layers, logits, weights

HELD_OUT_SECOND: dict[str, Fault] = {
    fault.id: fault
    for fault in by_id(attention.FAULTS, layers.FAULTS, logits.FAULTS, weights.FAULTS)
}
