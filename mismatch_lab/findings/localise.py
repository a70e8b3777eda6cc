"""The first module that diverges, and on which side.

For every module the outputs of both sides, of the reference and of the reference in the sides'
precision (the floor) are compared on the same tokens. A module's error is the root mean square
over positions of the relative error, the largest tenth of positions left out: where an expert
choice flips on a near-tie, a few positions differ a lot without anything being broken.

At depth `standard` each side runs on its own inputs, so errors travel: the culprit is the first
module whose output leaves the floor while its input does not. At depth `deep` every module is fed
the engine's input, so its error stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

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

METHODS: dict[str, str] = {
    "standard": "cumulative: first module whose output leaves the floor while its input does not",
    "deep": "isolated: first module whose error on the engine's own inputs leaves the floor",
}


def localise(
    captures: Mapping[str, Capture], depth: Depth, dtype: str, floor_ratio: float
) -> Localisation | None:
    """None unless both sides, reference and floor recorded hidden states."""
    needed = ("prefill", "train", "ref", "floor")
    if any(name not in captures or not captures[name].hidden for name in needed):
        return None
    isolated = all(f"{name}_on_infer" in captures for name in ("train", "ref", "floor"))
    measure = _isolated_errors if isolated else _cumulative_errors
    names = [n for n in captures["train"].hidden if not n.endswith(":in")]
    shared = [n for n in [*names, HEAD] if all(_recorded(captures[c], n) for c in needed)]
    roundoff = UNIT_ROUNDOFF[dtype]
    modules = [
        measure(captures, name, roundoff, floor_ratio) for name in sorted(shared, key=execution_order)
    ]
    culprit = next((m for m in modules if m.diverges), None)
    return Localisation(
        depth=depth,
        method=METHODS["deep" if isolated else "standard"],
        first_divergent_module=culprit.name if culprit else None,
        side=_side(culprit) if culprit else None,
        per_module=modules,
    )


def _recorded(capture: Capture, name: str) -> bool:
    return capture.probe_logp is not None if name == HEAD else name in capture.hidden


def _array(capture: Capture, name: str) -> Float32 | None:
    """Output of a module; for the head, logits up to a constant a row, which softmax ignores."""
    if name == f"{HEAD}:in":
        return capture.hidden.get("model.norm")
    if name != HEAD:
        return capture.hidden.get(name)
    if capture.probe_logp is None:
        return None
    with np.errstate(invalid="ignore"):
        centred: Float32 = capture.probe_logp - capture.probe_logp.mean(axis=1, keepdims=True)
    return centred


def module_error(hidden: Float32 | None, reference: Float32 | None) -> tuple[float, int]:
    """(trimmed root mean square of the relative error, positions); NaN without data."""
    if hidden is None or reference is None:
        return math.nan, 0
    width = min(hidden.shape[1], reference.shape[1])
    difference = hidden[:, :width].astype(np.float64) - reference[:, :width]
    norm = np.linalg.norm(reference[:, :width].astype(np.float64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.linalg.norm(difference, axis=1) / norm
    relative = np.sort(relative[np.isfinite(relative)])
    if not len(relative):
        return math.nan, 0
    kept = relative[: max(1, math.ceil(len(relative) * (1 - TRIMMED)))]
    return float(np.sqrt(np.mean(kept**2))), len(relative)


def _pair(captures: Mapping[str, Capture], a: str, b: str, name: str) -> float:
    return module_error(_array(captures[a], name), _array(captures[b], name))[0]


def _cumulative_errors(
    captures: Mapping[str, Capture], name: str, roundoff: float, floor_ratio: float
) -> ModuleError:
    def leaves(which: str) -> bool:
        limit = floor_ratio * max(_pair(captures, "floor", "ref", which), roundoff)
        sides = max(_pair(captures, "prefill", "ref", which), _pair(captures, "train", "ref", which))
        return _pair(captures, "prefill", "train", which) > limit and sides > limit

    error, n = module_error(_array(captures["prefill"], name), _array(captures["train"], name))
    return ModuleError(
        name=name,
        kind=kind_of(name),
        cumulative=error,
        infer_error=_pair(captures, "prefill", "ref", name),
        train_error=_pair(captures, "train", "ref", name),
        floor=max(_pair(captures, "floor", "ref", name), roundoff),
        diverges=leaves(name) and not leaves(f"{name}:in"),
        n=n,
    )


def _isolated_errors(
    captures: Mapping[str, Capture], name: str, roundoff: float, floor_ratio: float
) -> ModuleError:
    pair: Callable[[str, str], float] = lambda a, b: _pair(captures, a, b, name)  # noqa: E731
    if kind_of(name) in ("layer", "embedding"):
        # A layer's error is its parts'; an embedding has no input that could be swapped.
        return _cumulative_errors(captures, name, roundoff, floor_ratio).model_copy(
            update={} if name == "model.embed_tokens" else {"diverges": False}
        )
    isolated, n = module_error(
        _array(captures["prefill"], name), _array(captures["train_on_infer"], name)
    )
    infer_error = pair("prefill", "ref_on_infer")
    train_error = pair("train_on_infer", "ref_on_infer")
    floor = max(pair("floor_on_infer", "ref_on_infer"), roundoff)
    return ModuleError(
        name=name,
        kind=kind_of(name),
        cumulative=pair("prefill", "train"),
        isolated=isolated,
        infer_error=infer_error,
        train_error=train_error,
        floor=floor,
        diverges=isolated > floor_ratio * floor and max(infer_error, train_error) > floor_ratio * floor,
        n=n,
    )


def _side(module: ModuleError) -> str:
    if module.infer_error > SIDE_FACTOR * module.train_error:
        return "infer"
    return "train" if module.train_error > SIDE_FACTOR * module.infer_error else "undecided"
