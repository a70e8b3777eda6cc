"""Which version of each tensor the engine runs with, found by what its modules do.

Fingerprints taken when weights are loaded say nothing of what an update did to packed copies. But
a module of the engine that runs with old weights returns what the reference's returns with old
weights on the same inputs (`version_groups`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.captures.names import EMBEDDING, HEAD, kind_of
from mismatch_lab.checkpoints.tensors import stored_tensors
from mismatch_lab.checkpoints.version_groups import OLD, OWN, TensorGroup, replay_id, replay_slots
from mismatch_lab.engines.base import BLACK_BOXES
from mismatch_lab.engines.plan import changed_groups
from mismatch_lab.findings.module_error import module_error, module_pair
from mismatch_lab.findings.tensor_changes import Change, changed_tensors, together
from mismatch_lab.schema import Localisation, RunSpec, TensorVersion, VersionFindings, WeightUpdate

State = Literal["new", "old", "neither", "undecided", "unseen"]
EMBEDDING_TENSOR = "model.embed_tokens.weight"


Pair = tuple[Float32, Float32] | tuple[None, None]

MIN_POSITIONS = 16
CLEAR_SHARE = 0.75
"""Share of positions that must be closer to one version, and two standard errors of a fair coin
beyond one half. Rounding hides a small change in size, not in direction."""


@dataclass(frozen=True)
class TensorUse:
    """One tensor in one module; a tied embedding is used in two."""

    group: TensorGroup
    module: str
    state: State
    """new, old, neither (its module does what no mixture of old and new does), undecided (old and
    new cannot be told apart, or what it depends on is neither), unseen (module not recorded)."""
    error_new: float
    """Smallest isolated error of the module over the replays with the new tensor."""
    error_old: float
    limit: float
    """With neither version where both errors are larger; of the two, the closer one counts."""
    change: Change


@dataclass(frozen=True)
class Versions:
    """Every use of a tensor that the update changed."""

    weights_before: str
    weight_update: WeightUpdate | None
    uses: tuple[TensorUse, ...]

    def in_state(self, state: State) -> list[TensorUse]:
        """Uses in that state."""
        return [use for use in self.uses if use.state == state]


@dataclass(frozen=True)
class _Replays:
    """Errors of the engine's modules against each replay of the reference."""

    captures: Mapping[str, Capture]
    slots: list[frozenset[str]]
    limits: Mapping[str, float]

    def outputs(self, module: str, old: frozenset[str]) -> Pair:
        """[P, D] of the engine's module, and of the reference's with these slots old."""
        name = replay_id(old)
        if module == EMBEDDING:  # its inputs are token ids: its own run is an isolated one
            name = OLD if old else "ref"
        if name not in self.captures:
            return None, None
        return module_pair(self.captures["prefill"], self.captures[name], module)

    def error(self, module: str, old: frozenset[str]) -> float:
        """Isolated error of the engine's module against the reference with these slots old."""
        return module_error(*self.outputs(module, old))[0]


def find_versions(
    captures: Mapping[str, Capture],
    localisation: Localisation,
    groups: list[TensorGroup],
    changes: Mapping[str, Change],
    floor_ratio: float,
    tied: bool,
) -> tuple[TensorUse, ...]:
    """Decide every use of a changed tensor.

    Args:
        captures: by id; prefill, ref, old, and the replays of `version_groups`.
        localisation: floors by module.
        groups: of the changed tensors.
        changes: by checkpoint name.
        floor_ratio: a version is the engine's when its error is within this many floors.
        tied: whether the head is the embedding.
    """
    limits = {m.name: floor_ratio * m.floor for m in localisation.per_module}
    replays = _Replays(captures, [frozenset[str](), *replay_slots(groups)], limits)
    decided: dict[str, TensorUse] = {}
    for group in sorted(groups, key=_by_dependence):
        context = [decided[g.name] for g in groups if _depends(group, g) and g.name in decided]
        change = together(changes[name] for name in group.tensors)
        decided[group.name] = _decide(replays, group, group.module, context, change)
    uses = [decided[group.name] for group in groups]
    embedding = decided.get(EMBEDDING_TENSOR)
    if tied and embedding is not None:
        uses.append(_decide(replays, embedding.group, HEAD, [], embedding.change))
    return tuple(uses)


def record(versions: Versions) -> VersionFindings:
    """What findings.json keeps: counts, and the tensors that are not new."""
    return VersionFindings(
        weights_before=versions.weights_before,
        weight_update=versions.weight_update,
        changed=len(versions.uses),
        counts=dict(Counter(use.state for use in versions.uses)),
        tensors=[
            TensorVersion(
                tensor=use.group.name,
                module=use.module,
                state=use.state,
                error_new=use.error_new,
                error_old=use.error_old,
                limit=use.limit,
                change=use.change.relative,
                rank=use.change.rank,
            )
            for use in versions.uses
            if use.state != "new"
        ],
    )


def _decide(
    replays: _Replays, group: TensorGroup, module: str, context: list[TensorUse], change: Change
) -> TensorUse:
    limit = replays.limits.get(module, math.nan)
    known = all(use.state in ("new", "old") for use in context)
    fits = [old for old in replays.slots if all(_holds(old, use) for use in context)]
    if module == EMBEDDING:  # recorded in two runs only: everything new, everything old
        fits = [old for old in fits if not old or group.slot in old]
    new = _smallest(replays.error(module, old) for old in fits if group.slot not in old)
    stale = _smallest(replays.error(module, old) for old in fits if group.slot in old)
    state: State = "undecided"
    if math.isnan(limit) or (math.isnan(new) and math.isnan(stale)):
        state = "unseen"
    elif known and not (math.isnan(new) or math.isnan(stale)):
        share, n = _closer_to_old(replays, module, fits, group.slot)
        state = _state(new, stale, limit, share, n)
    return TensorUse(group, module, state, new, stale, limit, change)


def _state(error_new: float, error_old: float, limit: float, share: float, n: int) -> State:
    """`share` of `n` positions are closer to the old version than to the new one."""
    if min(error_new, error_old) > limit:
        return "neither"
    clear = max(CLEAR_SHARE, 0.5 + 2 * 0.5 / math.sqrt(max(n, 1)))
    if n < MIN_POSITIONS or 1 - clear < share < clear:
        return "undecided"
    return "old" if share >= clear else "new"


def _closer_to_old(
    replays: _Replays, module: str, fits: list[frozenset[str]], slot: str
) -> tuple[float, int]:
    """Share of positions at which the engine's output is closer to the old tensor's; how many.

    All other tensors are as in the replay that fits the engine best.
    """
    paired = [old for old in fits if {old - {slot}, old | {slot}} <= set(fits)]
    if not paired:
        return math.nan, 0
    best = min(paired, key=lambda old: _last_if_nan(replays.error(module, old)))
    engine, new = replays.outputs(module, best - {slot})
    same_engine, old = replays.outputs(module, best | {slot})
    if engine is None or new is None or same_engine is None or old is None:
        return math.nan, 0
    to_new = np.linalg.norm(engine - new.astype(np.float64), axis=1)
    to_old = np.linalg.norm(same_engine - old.astype(np.float64), axis=1)
    told_apart = np.isfinite(to_new) & np.isfinite(to_old) & (to_new != to_old)
    if not told_apart.any():
        return math.nan, 0
    return float((to_old < to_new)[told_apart].mean()), int(told_apart.sum())


def _holds(old: frozenset[str], use: TensorUse) -> bool:
    """Whether a replay has a tensor in the state that was found."""
    return (use.group.slot in old) == (use.state == "old")


def _smallest(errors: Iterable[float]) -> float:
    return min((error for error in errors if not math.isnan(error)), default=math.nan)


def _last_if_nan(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _by_dependence(group: TensorGroup) -> int:
    if group.slot.startswith(OWN):
        return 2
    return 1 if kind_of(group.module) == "experts" else 0


def _depends(group: TensorGroup, other: TensorGroup) -> bool:
    """Whether the module of one gives other outputs on the same inputs as the other changes."""
    if group.slot.startswith(OWN):
        return other.module.startswith(f"{group.module}.")
    if kind_of(group.module) != "experts" or kind_of(other.module) != "router":
        return False
    return other.module.rpartition(".")[0] == group.module.rpartition(".")[0]


def measure_versions(
    run: RunSpec, captures: Mapping[str, Capture], localisation: Localisation | None
) -> Versions | None:
    """None without `--weights-before`, or where no modules were fed with tensors of before.

    Raises:
        InputError: a checkpoint is no longer there.
    """
    before = run.infer.weights_before
    if before is None or localisation is None or run.infer.engine in BLACK_BOXES:
        return None
    uses = find_versions(
        captures,
        localisation,
        changed_groups(run),
        changed_tensors(before, run.infer.model),
        run.probe.limits.module_floor_ratio,
        tied="lm_head.weight" not in stored_tensors(run.infer.model),
    )
    return Versions(before, run.infer.weight_update, uses)
