"""Fixes by name, each with its formula and its source.

A `REMEDY` says at which points of a run it acts, as hooks (`base.py`) that the trainer calls. To
add one: a `Remedy` in `few_lines.py` or a module of its own, and a row below.
"""

from __future__ import annotations

from collections.abc import Iterable

from mismatch_lab.registry import resolve
from mismatch_lab.remedies.base import Fixes, Remedy

_HERE = "mismatch_lab.remedies"

REMEDIES: dict[str, str] = {
    "attention-sinks": f"{_HERE}.few_lines:ATTENTION_SINKS",
    "batch-invariant": f"{_HERE}.batch_invariant:REMEDY",
    "cache-flush": f"{_HERE}.few_lines:CACHE_FLUSH",
    "fp16": f"{_HERE}.few_lines:FP16",
    "fp32-head": f"{_HERE}.fp32_head:REMEDY",
    "grouped-experts": f"{_HERE}.few_lines:GROUPED_EXPERTS",
    "on-policy-ratio": f"{_HERE}.few_lines:ON_POLICY_RATIO",
    "rollout-correction": f"{_HERE}.rollout_correction:REMEDY",
    "routing-replay": f"{_HERE}.routing_replay:REMEDY",
    "sampler-mask": f"{_HERE}.few_lines:SAMPLER_MASK",
}
"""id -> where its `REMEDY` is."""


def load_remedy(name: str) -> Remedy:
    """The remedy of that id.

    Raises:
        InputError: there is none; the message lists what there is.
    """
    found: Remedy = resolve("fix", name, REMEDIES)
    return found


def fixes_of(cause: str) -> tuple[str, ...]:
    """Ids of what the reference trainer can do about a cause: what removes it comes first."""
    found = [load_remedy(name) for name in REMEDIES]
    removing = [fix.id for fix in found if cause in fix.removes]
    return (*removing, *(fix.id for fix in found if cause in fix.softens))


def load_fixes(names: Iterable[str]) -> Fixes:
    """The remedies of these ids, in the order of the table.

    Raises:
        InputError: a name that is no remedy's.
    """
    found = {name: load_remedy(name) for name in names}
    return Fixes(tuple(found[name] for name in REMEDIES if name in found))
