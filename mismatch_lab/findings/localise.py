"""The first module that diverges, and on which side.

Errors travel: one wrong module makes every later one differ, and one expert choice that flips on a
near-tie spreads over a sequence. So every module of the trainer and of the reference is fed what
the engine's module was fed (`engines/torch_replay`), and what comes out is compared: the
*isolated* error. The reference in the sides' precision says how large it is where nothing is wrong
(the floor). The comparison of each side on its own inputs is the *cumulative* error.

An error is the root mean square over positions of the relative error, the largest tenth of
positions left out: a choice flipped inside the very module is no defect either. What that leaves
out is looked at in runs: a module that is wrong at eight positions on end is wrong there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HEAD, kind_of
from mismatch_lab.findings.held_against import SIDES, floor_of, held_against, sides_seen
from mismatch_lab.findings.module_error import (
    RunError,
    execution_order,
    module_pair,
    relative_errors,
    trimmed_error,
    worst_run,
)
from mismatch_lab.findings.same_part import unlike
from mismatch_lab.schema import Depth, Localisation, ModuleError, NotCompared, WorstRun

SIDE_FACTOR = 1.5
"""A side is named when its error is this many times the other side's."""

UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Largest relative error of one rounding (half a unit in the last place, over a significand near
1): a module that is exact in theory still stores its output."""

RUN_RATIO = 6.0
"""A run of positions diverges when its error is this many times its floor. The worst runs of 1,676
healthy modules of the scorecard's random architectures came to 2.2 times theirs in float32, of
1,697 in bfloat16 to 1.8; single modules of trained models have come to 2.5 times theirs on
average."""

OF_RECORD = (
    "recorded: the first module whose error leaves the floor, each side against the reference"
)
METHOD = "isolated: the first module whose error on the engine's own inputs leaves the floor"

NO_PART = "the engine has no such part"
OTHER_WIDTH = "its outputs are of other widths on the sides"


def localise(
    captures: Mapping[str, Capture],
    depth: Depth,
    dtype: str,
    floor_ratio: float,
    recorded: bool = False,
) -> Localisation | None:
    """Compare every module that all captures recorded.

    Args:
        captures: by id; prefill, train and ref, and train, ref and floor on the engine's inputs.
        depth: of the run, for the record.
        dtype: of the coarser side.
        floor_ratio: a module diverges when its error is more than this many times the floor.
        recorded: of a record, where either side may be missing: each is held against the reference
            by itself, see `held_against`.

    Returns:
        None where a capture is missing or holds no hidden states.
    """
    sides = sides_seen(captures)
    needed = ("prefill", "train", "ref", "train_on_infer", "ref_on_infer", "floor_on_infer")
    unseen = any(name not in captures or not captures[name].hidden for name in needed)
    if (not sides) if recorded else unseen:
        return None
    names = in_order(captures["train" if "train" in sides else "prefill"])
    comparable = _not_of_record if recorded else _not_comparable
    left_out = {name: why for name in names if (why := comparable(captures, name))}
    found = {
        name: _module(captures, name, UNIT_ROUNDOFF[dtype], floor_ratio)
        for name in names
        if name not in left_out
    }
    for name, module in found.items():
        if module.diverges and (why := unlike(module, found, captures, floor_ratio)):
            left_out[name] = why
    modules = [module for name, module in found.items() if name not in left_out]
    modules = [_as_a_whole(m, modules) for m in modules]
    culprit = next((m for m in modules if m.diverges), None)
    return Localisation(
        depth=depth,
        method=OF_RECORD if recorded else METHOD,
        first_divergent_module=culprit.name if culprit else None,
        side=_side(culprit, floor_ratio) if culprit else None,
        per_module=modules,
        not_compared=[NotCompared(name=n, why=left_out[n]) for n in names if n in left_out],
    )


def left_open(found: Localisation) -> Localisation:
    """The same, with an error of the engine's laid to nobody: the reference is in doubt."""
    return found.model_copy(update={"side": "undecided"}) if found.side == "infer" else found


def in_order(trainer: Capture) -> list[str]:
    """Modules whose outputs the trainer recorded, as they were there."""
    names = [name for name in trainer.hidden if not name.endswith(":in")]
    names += [] if trainer.probe_logp is None else [HEAD]
    places = {name: place for place, name in enumerate(trainer.tap_order)}
    return sorted(names, key=lambda n: (execution_order(n)[0], places.get(n, len(places))))


def _not_comparable(captures: Mapping[str, Capture], name: str) -> str:
    """Why a module that the trainer recorded cannot be compared; empty where it can."""
    engine, trainer = captures["prefill"], captures["train"]
    for capture in (engine, trainer, captures["ref_on_infer"]):
        if name in capture.not_recorded and name not in capture.hidden:
            return capture.not_recorded[name]
    if name not in engine.hidden and (name != HEAD or engine.probe_logp is None):
        return NO_PART
    return "" if module_pair(engine, trainer, name)[0] is not None else OTHER_WIDTH


def _module(
    captures: Mapping[str, Capture], name: str, roundoff: float, floor_ratio: float
) -> ModuleError:
    # An embedding's input are token ids, the same on both sides: its own run is an isolated one.
    kind = kind_of(name)
    suffix = "" if kind == "embedding" else "_on_infer"
    if "train_on_infer" in captures:
        between = {
            "cumulative": ("prefill", "train"),
            "isolated": ("prefill", f"train{suffix}"),
            "infer": ("prefill", f"ref{suffix}"),
            "train": (f"train{suffix}", f"ref{suffix}"),
            "floor": (f"floor{suffix}", f"ref{suffix}"),
        }
    else:
        between = _of_record(captures, on_own=not suffix)
    relative = {key: _relative(captures, pair, name) for key, pair in between.items()}
    error = {key: trimmed_error(each)[0] for key, each in relative.items()}
    seen = captures[between["floor"][0]]
    floor = _floor(error["floor"], roundoff, captures[_fed_by(captures)], name)
    limit = floor_ratio * floor
    run = _worst_run(relative, seen.probe_positions, floor)
    larger = float(np.fmax(error["infer"], error["train"]))
    apart = error.get("isolated", larger)
    return ModuleError(
        name=name,
        kind=kind,
        cumulative=error["cumulative"],
        isolated=error.get("isolated", math.nan),
        infer_error=error["infer"],
        train_error=error["train"],
        floor=floor,
        diverges=(apart > limit and larger > limit) or (run is not None and run.diverges),
        n=max(trimmed_error(errors)[1] for errors in relative.values()),
        worst_run=run,
    )


def _relative(
    captures: Mapping[str, Capture], pair: tuple[str, str], name: str
) -> NDArray[np.float64]:
    """Of a pair that recorded other positions, nothing."""
    a, b = (captures[one] for one in pair)
    if not np.array_equal(a.probe_positions, b.probe_positions):
        return np.zeros(0)
    return relative_errors(*module_pair(a, b, name))


def _of_record(captures: Mapping[str, Capture], on_own: bool) -> dict[str, tuple[str, str]]:
    """What is held against what where each side has only itself and the reference."""
    pairs = {"cumulative": ("prefill", "train")}
    for side in SIDES:
        own, reference = held_against(captures, side)
        pairs[side] = (own, "ref" if on_own else reference)
    of = pairs["train" if _fed_by(captures) == "train" else "infer"][1]
    return {**pairs, "floor": (floor_of(of), of)}


def _fed_by(captures: Mapping[str, Capture]) -> str:
    """Capture whose positions and inputs the floor is of."""
    return "prefill" if captures["prefill"].hidden else "train"


def _not_of_record(captures: Mapping[str, Capture], name: str) -> str:
    """Why a module of a record cannot be compared on any side; empty where it can."""
    sides = sides_seen(captures)
    pairs = [[captures[one] for one in held_against(captures, side)] for side in sides]
    if all(module_pair(a, b, name)[0] is None for a, b in pairs):
        return NO_PART
    return ""


def _floor(measured: float, roundoff: float, engine: Capture, name: str) -> float:
    """What precision does to a module, from the reference in this precision.

    A module that computes in float32 whatever it is given has none of its own there. Then it is
    that of a product over the width n of its input, sqrt(n) roundoffs (Higham and Mary 2019).
    """
    if measured > roundoff:
        return measured
    given = engine.hidden.get(f"{name}:in")
    width = given.shape[1] if given is not None and measured == 0 else 1
    return roundoff * math.sqrt(width)


def _worst_run(
    relative: Mapping[str, NDArray[np.float64]], positions: NDArray[np.int64], floor: float
) -> WorstRun | None:
    """The worst run of either side against the reference; None where no row is as long."""
    runs = {key: _run_of(relative[key], positions) for key in ("infer", "train", "floor")}
    side: Literal["infer", "train"] = (
        "infer" if not runs["train"].error > np.nan_to_num(runs["infer"].error) else "train"
    )
    worst = runs[side]
    if not worst.stop:
        return None
    least = float(np.fmax(runs["floor"].error, floor))
    apart = worst.error
    if "isolated" in relative:
        apart = _run_of(relative["isolated"], positions).error
    return WorstRun(
        side=side,
        start=worst.start,
        stop=worst.stop,
        error=worst.error,
        floor=least,
        diverges=min(worst.error, apart) > RUN_RATIO * least,
    )


def _run_of(relative: NDArray[np.float64], positions: NDArray[np.int64]) -> RunError:
    if len(relative) != len(positions):
        return RunError(0, 0, math.nan)
    return worst_run(relative, positions)


def _as_a_whole(module: ModuleError, modules: list[ModuleError]) -> ModuleError:
    """A layer is the sum of its parts, which are judged themselves: it is wrong only where all of
    them are right (a residual that is left out, or added up in another precision).
    """
    if module.kind != "layer" or not module.diverges:
        return module
    part = any(m.diverges for m in modules if m.name.startswith(f"{module.name}."))
    return module.model_copy(update={"diverges": not part})


def _side(module: ModuleError, floor_ratio: float) -> Literal["infer", "train", "undecided"]:
    """Whose error is larger: over most positions or, where these agree, in the worst run."""
    run = module.worst_run
    if (
        run is not None
        and np.fmax(module.infer_error, module.train_error) <= floor_ratio * module.floor
    ):
        return run.side
    if math.isnan(module.infer_error) or math.isnan(module.train_error):
        return "train" if math.isnan(module.infer_error) else "infer"
    if module.infer_error > SIDE_FACTOR * module.train_error:
        return "infer"
    return "train" if module.train_error > SIDE_FACTOR * module.infer_error else "undecided"
