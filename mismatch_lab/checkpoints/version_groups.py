"""Which replays tell, of every tensor that an update changed, whether the engine has it old or new.

A module's isolated error depends on the module's own tensors. So the reference is replayed with
some of them old, in every module at once: each tensor of a module has a slot, and there is a replay
for every set of slots. Two kinds of module depend on others even in a replay: experts on the
router, which picks them, and what stands beside modules within a module (the sinks of an attention)
on those. Their slots are apart, so that they can be old while the others are new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from mismatch_lab.captures.names import HEAD, canonical_name, kind_of

MAX_SLOTS = 4
"""Tensors of one module that are told apart; any further ones are decided with the last."""

OWN = "own"
ROUTER = "router"
OLD = "old"
"""Capture of the reference with everything old, on its own inputs."""

_OF_EXPERT = re.compile(r"^(.*\.experts)\.\d+\.(.+)$")


@dataclass(frozen=True)
class TensorGroup:
    """A tensor, or the same tensor of all experts of a layer."""

    name: str
    """Checkpoint name, with `*` for the experts' numbers."""
    module: str
    """Canonical name of the module that holds it."""
    tensors: tuple[str, ...]
    """Checkpoint names."""
    slot: str
    """Replays whose set of slots holds this one have it old."""


def group_tensors(changed: Iterable[str], every: Iterable[str]) -> list[TensorGroup]:
    """Groups of the changed tensors, in order of name.

    Args:
        changed: checkpoint names.
        every: all names of the checkpoint, which say what modules lie within which.
    """
    members: dict[str, list[str]] = {}
    for tensor in sorted(changed):
        members.setdefault(_OF_EXPERT.sub(r"\1.*.\2", tensor), []).append(tensor)
    holders = {".".join(p[:n]) for p in map(_path_of, every) for n in range(1, len(p))}
    taken: dict[str, int] = {}
    groups = []
    for name, tensors in members.items():
        module = ".".join(_path_of(tensors[0]))
        place = min(taken.get(module, 0), MAX_SLOTS - 1)
        taken[module] = place + 1
        kind = OWN if module in holders else ROUTER if kind_of(module) == "router" else ""
        groups.append(TensorGroup(name, module, tuple(tensors), f"{kind}{place}"))
    return groups


def replay_slots(groups: Iterable[TensorGroup]) -> list[frozenset[str]]:
    """Sets of slots that are old in one replay each."""
    slots = {group.slot for group in groups}
    own = {slot for slot in slots if slot.startswith(OWN)}
    router = {slot for slot in slots if slot.startswith(ROUTER)}
    plain = slots - own - router
    sets = _subsets(plain) + _subsets(own) + _subsets(router)
    if router:
        sets += [frozenset(router | {slot}) for slot in sorted(plain)] + [frozenset(router | plain)]
    if own:
        sets += [frozenset(own | {slot}) for slot in sorted(plain)]
        sets += [frozenset(slots - own), frozenset(slots)]
    return list(dict.fromkeys(chosen for chosen in sets if chosen))


def replay_id(old: frozenset[str]) -> str:
    """Name of the capture in which these slots are old; with none old, the reference's replay."""
    return f"{OLD}_on_infer.{'-'.join(sorted(old))}" if old else "ref_on_infer"


def _subsets(slots: set[str]) -> list[frozenset[str]]:
    ordered = sorted(slots)
    sizes = range(1, len(ordered) + 1)
    return [frozenset(chosen) for size in sizes for chosen in combinations(ordered, size)]


def _path_of(tensor: str) -> list[str]:
    """Canonical name of the module that a tensor belongs to, in parts."""
    of_expert = _OF_EXPERT.match(tensor)
    module = of_expert.group(1) if of_expert else tensor.rpartition(".")[0]
    # Fused experts are parameters of the experts' module: `experts.down_proj` has no `.weight`.
    if module.rpartition(".")[2] == HEAD:
        return [HEAD]
    return canonical_name(module).split(".")
