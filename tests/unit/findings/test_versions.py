"""Old, new or neither, from module outputs that are written down.

Every module returns (1, 0, 0, …) with new weights; tensor i of a module, if old, adds a tenth on
axis i + 1. So the error of a module with one tensor in the wrong version is 0.1 over the length of
what it is compared with: 0.1 against the new (length 1), 0.1 / sqrt(1.01) against the old.
"""

from __future__ import annotations

from dataclasses import replace
from math import isnan, sqrt

import numpy as np
import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.checkpoints.version_groups import group_tensors, replay_id, replay_slots
from mismatch_lab.findings.tensor_changes import Change
from mismatch_lab.findings.versions import TensorUse, Versions, find_versions, record
from mismatch_lab.schema import Localisation, ModuleError

LAYER = "model.layers.0"
ATTENTION, EXPERTS, GATE = f"{LAYER}.self_attn", f"{LAYER}.mlp.experts", f"{LAYER}.mlp.gate"
WEIGHT, BIAS = f"{ATTENTION}.o_proj.weight", f"{ATTENTION}.o_proj.bias"
SINKS, ROUTER = f"{ATTENTION}.sinks", f"{GATE}.weight"
DOWN, UP = f"{EXPERTS}.down_proj", f"{EXPERTS}.up_proj"
EMBEDDING = "model.embed_tokens.weight"
ALL = [BIAS, WEIGHT, SINKS, ROUTER, DOWN, UP, EMBEDDING]
TENSORS_OF = {
    # What a module's output depends on: experts on their router, an attention on its projections.
    f"{ATTENTION}.o_proj": [BIAS, WEIGHT],
    ATTENTION: [BIAS, WEIGHT, SINKS],
    GATE: [ROUTER],
    EXPERTS: [DOWN, UP, ROUTER],
    f"{LAYER}:in": [EMBEDDING],
    "model.embed_tokens": [],
}
FLOOR, RATIO, POSITIONS = 0.001, 3.0, 20


def state(module: str, old: set[str], head_old: bool = False) -> np.ndarray:
    axes = [0.1 if tensor in old else 0.0 for tensor in TENSORS_OF[module]]
    return np.tile(np.array([1.0, *axes, 0.0], np.float32), (POSITIONS, 1))


def side(old: set[str], head_old: bool | None = None) -> Capture:
    """Everything that a side with these tensors old records; its head is the embedding's."""
    base = capture([-1.0] * POSITIONS)
    tilted = EMBEDDING in old if head_old is None else head_old
    logits = np.array([1.0, 0.1 if tilted else 0.0, -1.0], np.float32)
    return replace(
        base,
        probe_positions=np.arange(1, POSITIONS + 1),
        probe_logp=np.tile(logits - np.log(np.exp(logits).sum()), (POSITIONS, 1)),
        hidden={name: state(name, old) for name in TENSORS_OF},
    )


def located(names: list[str]) -> Localisation:
    modules = [
        ModuleError(name=name, kind="", cumulative=0, floor=FLOOR, diverges=False, n=POSITIONS)
        for name in names
    ]
    return Localisation(
        depth="standard", method="", first_divergent_module=None, side=None, per_module=modules
    )


def found(engine: Capture, changed: list[str] = ALL, tied: bool = False) -> dict[str, TensorUse]:
    """Uses by tensor; the head's under `head`."""
    groups = group_tensors(changed, ALL)
    captures = {"prefill": engine, "ref": side(set()), "ref_on_infer": side(set())}
    captures["old"] = side(set(changed))
    for slots in replay_slots(groups):
        stale = {name for group in groups if group.slot in slots for name in group.tensors}
        captures[replay_id(slots)] = side(stale)
    everything = located([*TENSORS_OF, "lm_head"])
    changes = {name: Change(0.1, None) for name in changed}
    uses = find_versions(captures, everything, groups, changes, RATIO, tied)
    return {"head" if use.module == "lm_head" else use.group.name: use for use in uses}


def states(uses: dict[str, TensorUse]) -> dict[str, str]:
    return {name: use.state for name, use in uses.items()}


@pytest.mark.parametrize(
    "old",
    [
        set(), {WEIGHT}, {BIAS}, {SINKS}, {ROUTER}, {DOWN}, {EMBEDDING}, {WEIGHT, BIAS},
        {DOWN, UP}, {SINKS, DOWN, UP}, {ROUTER, UP}, {SINKS, ROUTER, EMBEDDING}, set(ALL),
    ],
)  # fmt: skip
def test_exactly_what_is_old_is_found(old: set[str]) -> None:
    assert states(found(side(old))) == {name: "old" if name in old else "new" for name in ALL}


def test_the_errors_are_those_of_the_module_with_either_version() -> None:
    use = found(side({WEIGHT}))[WEIGHT]
    # The engine's output is (1, 0, 0.1, 0). New: (1, 0, 0, 0) is 0.1 away, over a length of 1.
    # With the bias old too: (1, 0.1, 0, 0) is 0.1·sqrt(2) away, more; the smallest counts.
    assert use.error_new == pytest.approx(0.1, rel=1e-5)
    assert use.error_old == 0.0
    assert use.limit == pytest.approx(3 * 0.001)
    other = found(side({WEIGHT}))[BIAS]
    assert other.error_new == 0.0
    # (1, 0.1, 0.1, 0), both old, is 0.1 away over sqrt(1.02).
    assert other.error_old == pytest.approx(0.1 / sqrt(1.02), rel=1e-5)


def off(engine: Capture, module: str, amount: float) -> Capture:
    """The engine with a module's output changed on the last axis, as no old weight would."""
    wrong = engine.hidden[module].copy()
    wrong[:, -1] += amount
    return replace(engine, hidden=engine.hidden | {module: wrong})


def test_what_no_mixture_of_old_and_new_does_is_neither() -> None:
    uses = found(off(side({SINKS}), EXPERTS, 1.4))
    expected = dict.fromkeys(ALL, "new") | {SINKS: "old", DOWN: "neither", UP: "neither"}
    assert states(uses) == expected
    # Smallest with up_proj old: 1.4 and 0.1 away, over the length of (1, 0.1).
    assert uses[DOWN].error_new == pytest.approx(sqrt(1.97) / sqrt(1.01), rel=1e-5)


def test_an_error_within_the_floor_is_the_new_version() -> None:
    assert states(found(off(side(set()), EXPERTS, 0.002)))[DOWN] == "new"
    assert states(found(off(side(set()), EXPERTS, 0.004)))[DOWN] == "neither"


def told(closer_to_old: int, positions: int = POSITIONS) -> str:
    """State of one projection's weight that moves outputs by 0.002, less than rounding may."""
    name = f"{ATTENTION}.o_proj"
    engine = side(set())
    output = engine.hidden[name].copy()
    output[:closer_to_old, -1] += 0.0015
    output[positions:] = np.nan
    groups = group_tensors([WEIGHT], ALL)
    captures = {key: side(set()) for key in ("ref", "old", "ref_on_infer")}
    captures["prefill"] = replace(engine, hidden=engine.hidden | {name: output})
    captures["old_on_infer.0"] = off(side(set()), name, 0.002)
    changes = {WEIGHT: Change(1e-4, None)}
    (use,) = find_versions(captures, located(list(TENSORS_OF)), groups, changes, RATIO, False)
    assert max(use.error_new, use.error_old) < use.limit
    return use.state


def test_a_change_below_the_floor_shows_in_which_version_is_closer() -> None:
    # A clear share of 20 positions is 0.75: two standard errors are 0.5 + 1 / sqrt(20) = 0.72.
    assert [told(n) for n in (0, 5, 6, 14, 15, 20)] == [
        "new", "new", "undecided", "undecided", "old", "old",
    ]  # fmt: skip
    assert told(0, positions=16) == "new"
    assert told(0, positions=15) == "undecided", "too few positions"


def test_experts_behind_a_router_that_is_neither_are_undecided() -> None:
    engine = off(off(side(set()), GATE, 0.5), EXPERTS, 0.5)
    assert states(found(engine))[ROUTER] == "neither"
    assert states(found(engine))[DOWN] == "undecided"


def test_a_module_that_was_not_recorded_is_unseen() -> None:
    engine = side(set())
    without = {name: array for name, array in engine.hidden.items() if name != GATE}
    uses = found(replace(engine, hidden=without))
    assert uses[ROUTER].state == "unseen"
    assert isnan(uses[ROUTER].error_new)


@pytest.mark.parametrize(("embedding", "head"), [(True, False), (False, True), (True, True)])
def test_a_tied_head_is_a_use_of_its_own(embedding: bool, head: bool) -> None:
    engine = side({EMBEDDING} if embedding else set(), head_old=head)
    uses = found(engine, tied=True)
    assert uses[EMBEDDING].state == ("old" if embedding else "new")
    assert uses["head"].state == ("old" if head else "new")
    assert uses["head"].group.name == EMBEDDING


def test_the_record_counts_all_and_lists_what_is_not_new() -> None:
    uses = tuple(found(off(side({SINKS}), EXPERTS, 1.4)).values())
    kept = record(Versions("before", "reload_weights", uses))
    assert kept.counts == {"new": 4, "old": 1, "neither": 2}
    assert kept.changed == 7
    assert sorted(tensor.tensor for tensor in kept.tensors) == sorted([SINKS, DOWN, UP])
