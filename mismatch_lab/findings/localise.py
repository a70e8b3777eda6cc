"""The first module that diverges, and on which side.

Errors travel: one wrong module makes every later one differ, and one expert choice that flips on a
near-tie spreads over a sequence. So every module of the trainer and of the reference is fed what
the engine's module was fed (`engines/torch_replay`), and what comes out is compared: the
*isolated* error. The reference in the sides' precision says how large it is where nothing is wrong
(the floor). The comparison of each side on its own inputs is the *cumulative* error.

An error is the root mean square over positions of the relative error, the largest tenth of
positions left out: a choice flipped inside the very module is no defect either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.findings.modules import HEAD, execution_order, kind_of
from mismatch_lab.schema import Depth, Localisation, ModuleError

TRIMMED = 0.1
"""Share of positions left out, those with the largest errors."""

SIDE_FACTOR = 1.5
"""A side is named when its error is this many times the other side's."""

UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}
"""Half a unit in the last place: a module that is exact in theory still stores its output."""

EMBEDDING = "model.embed_tokens"
FIRST_INPUT = "model.layers.0:in"
"""What the first layer gets stands for the embedding: some programs scale it inside the module,
some after it (Gemma)."""

METHOD = "isolated: the first module whose error on the engine's own inputs leaves the floor"


def localise(
    captures: Mapping[str, Capture], depth: Depth, dtype: str, floor_ratio: float
) -> Localisation | None:
    """Compare every module that all captures recorded.

    Args:
        captures: by id; prefill, train, and train, ref and floor on the engine's inputs.
        depth: of the run, for the record.
        dtype: of the coarser side.
        floor_ratio: a module diverges when its error is more than this many times the floor.

    Returns:
        None where a capture is missing or holds no hidden states.
    """
    needed = ("prefill", "train", "train_on_infer", "ref_on_infer", "floor_on_infer")
    if any(name not in captures or not captures[name].hidden for name in needed):
        return None
    names = [*(n for n in captures["train"].hidden if not n.endswith(":in")), HEAD]
    both = captures["prefill"], captures["train"]
    shared = [n for n in names if module_pair(*both, n)[0] is not None]
    modules = [
        _module(captures, name, UNIT_ROUNDOFF[dtype], floor_ratio)
        for name in sorted(shared, key=execution_order)
    ]
    modules = [_as_a_whole(m, modules) for m in modules]
    culprit = next((m for m in modules if m.diverges), None)
    return Localisation(
        depth=depth,
        method=METHOD,
        first_divergent_module=culprit.name if culprit else None,
        side=_side(culprit) if culprit else None,
        per_module=modules,
    )


def left_open(found: Localisation) -> Localisation:
    """The same, with an error of the engine's laid to nobody: the reference is in doubt."""
    return found.model_copy(update={"side": "undecided"}) if found.side == "infer" else found


def module_error(hidden: Float32 | None, reference: Float32 | None) -> tuple[float, int]:
    """(trimmed root mean square of the relative error, positions); NaN and 0 without data.

    Args:
        hidden: [P, D] or None.
        reference: [P, D], what the error is relative to.
    """
    if hidden is None or reference is None:
        return math.nan, 0
    expected = reference.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.linalg.norm(hidden - expected, axis=1)
        relative = difference / np.linalg.norm(expected, axis=1)
    # Infinite where it should be finite is as wrong as can be; what was not recorded is NaN.
    relative[np.isinf(hidden).any(axis=1) & np.isfinite(expected).all(axis=1)] = np.inf
    relative = np.sort(relative[~np.isnan(relative)])
    if not len(relative):
        return math.nan, 0
    kept = relative[: max(1, math.ceil(len(relative) * (1 - TRIMMED)))]
    return float(np.sqrt(np.mean(kept**2))), len(relative)


def _module(
    captures: Mapping[str, Capture], name: str, roundoff: float, floor_ratio: float
) -> ModuleError:
    def error(a: str, b: str) -> float:
        return module_error(*module_pair(captures[a], captures[b], name))[0]

    kind = kind_of(name)
    # An embedding's input are token ids, the same on both sides: its own run is an isolated one.
    suffix = "" if kind == "embedding" else "_on_infer"
    isolated = error("prefill", f"train{suffix}")
    infer_error = error("prefill", f"ref{suffix}")
    train_error = error(f"train{suffix}", f"ref{suffix}")
    floor = float(np.fmax(error(f"floor{suffix}", f"ref{suffix}"), roundoff))
    limit = floor_ratio * floor
    _, n = module_error(*module_pair(captures["prefill"], captures["train"], name))
    return ModuleError(
        name=name,
        kind=kind,
        cumulative=error("prefill", "train"),
        isolated=isolated,
        infer_error=infer_error,
        train_error=train_error,
        floor=floor,
        diverges=isolated > limit and max(infer_error, train_error) > limit,
        n=n,
    )


def _as_a_whole(module: ModuleError, modules: list[ModuleError]) -> ModuleError:
    """A layer is the sum of its parts, which are judged themselves: it is wrong only where all of
    them are right (a residual that is left out, or added up in another precision).
    """
    if module.kind != "layer" or not module.diverges:
        return module
    part = any(m.diverges for m in modules if m.name.startswith(f"{module.name}."))
    return module.model_copy(update={"diverges": not part})


def module_pair(a: Capture, b: Capture, name: str) -> tuple[Float32, Float32] | tuple[None, None]:
    """[P, D] output of a module on both sides, or two None; where widths differ (a padded
    vocabulary) the shared part. For the head, logits up to a constant, which softmax ignores.
    """
    left, right = (_array(capture, name) for capture in (a, b))
    if left is None or right is None:
        return None, None
    width = min(left.shape[1], right.shape[1])
    left, right = left[:, :width], right[:, :width]
    return (_centred(left), _centred(right)) if name == HEAD else (left, right)


def _array(capture: Capture, name: str) -> Float32 | None:
    if name == HEAD:
        return capture.probe_logp
    if name == EMBEDDING and FIRST_INPUT in capture.hidden:
        return capture.hidden[FIRST_INPUT]
    return capture.hidden.get(name)


def _centred(logp: Float32) -> Float32:
    with np.errstate(invalid="ignore"):
        centred: Float32 = logp - logp.mean(axis=1, keepdims=True)
    return centred


def _side(module: ModuleError) -> Literal["infer", "train", "undecided"]:
    if module.infer_error > SIDE_FACTOR * module.train_error:
        return "infer"
    return "train" if module.train_error > SIDE_FACTOR * module.infer_error else "undecided"
