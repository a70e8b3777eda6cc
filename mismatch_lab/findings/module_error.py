"""How far a module's outputs are apart: over most positions, and in the worst run of positions.

And in which order a model runs its modules, by their names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.captures.names import EMBEDDING, FINAL_NORM, HEAD, LAYERS, layer_of

Float64 = NDArray[np.float64]

TRIMMED = 0.1
"""Share of positions left out, those with the largest errors."""

RUN = 8
"""Consecutive positions of a run. Its error is their median: an expert choice that flips at three
of them, or four single tokens, are no run."""

FIRST_INPUT = f"{LAYERS}.0:in"
"""What the first layer gets stands for the embedding: some programs scale it inside the module,
some after it (Gemma), some add positions or a norm (GPT-2, BLOOM)."""


@dataclass(frozen=True)
class RunError:
    """The worst run: flat token indices of the capture [start, stop), and the median error there.

    NaN and two zeros where no row has so many positions.
    """

    start: int
    stop: int
    error: float


def relative_errors(hidden: Float32 | None, reference: Float32 | None) -> Float64:
    """[P] relative error of each position, ||hidden - reference|| / ||reference||; NaN where a side
    recorded nothing. Infinite where it should be finite is as wrong as can be.

    Args:
        hidden: [P, D] or None.
        reference: [P, D], what the error is relative to.
    """
    if hidden is None or reference is None:
        return np.zeros(0)
    expected = reference.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.linalg.norm(hidden - expected, axis=1)
        relative: Float64 = difference / np.linalg.norm(expected, axis=1)
    relative[np.isinf(hidden).any(axis=1) & np.isfinite(expected).all(axis=1)] = np.inf
    return relative


def trimmed_error(relative: Float64) -> tuple[float, int]:
    """(root mean square without the largest tenth, positions); NaN and 0 without data."""
    finite = np.sort(relative[~np.isnan(relative)])
    if not len(finite):
        return math.nan, 0
    kept = finite[: max(1, math.ceil(len(finite) * (1 - TRIMMED)))]
    return float(np.sqrt(np.mean(kept**2))), len(finite)


def module_error(hidden: Float32 | None, reference: Float32 | None) -> tuple[float, int]:
    """`trimmed_error` of two outputs."""
    return trimmed_error(relative_errors(hidden, reference))


def worst_run(relative: Float64, positions: NDArray[np.int64]) -> RunError:
    """The run of `RUN` consecutive positions whose median error is largest.

    Args:
        relative: [P].
        positions: [P] flat token indices, ascending; rows are apart by at least one.
    """
    worst = RunError(0, 0, math.nan)
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    spans = zip(np.split(relative, breaks), np.split(positions, breaks), strict=True)
    for errors, places in spans:
        if len(errors) < RUN or np.isnan(errors).all():
            continue
        medians = np.median(sliding_window_view(np.nan_to_num(errors, posinf=np.inf), RUN), axis=1)
        at = int(np.argmax(medians))
        if not medians[at] <= worst.error:
            worst = RunError(int(places[at]), int(places[at]) + RUN, float(medians[at]))
    return worst


def module_pair(a: Capture, b: Capture, name: str) -> tuple[Float32, Float32] | tuple[None, None]:
    """[P, D] output of a module on both sides, or two None, where a side has none or of another
    width. For the head, logits up to a constant, which softmax ignores, of the shared vocabulary.
    """
    left, right = (_array(capture, name) for capture in (a, b))
    if left is None or right is None:
        return None, None
    if name == HEAD:
        width = min(left.shape[1], right.shape[1])
        return _centred(left[:, :width]), _centred(right[:, :width])
    return (left, right) if left.shape[1] == right.shape[1] else (None, None)


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


_BLOCKS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""Parts of a decoder layer in the order in which most run; any others come after them."""


def execution_order(name: str) -> tuple[int, int]:
    """Sort key of a module or tensor by when its part of the model runs, as far as names tell.

    What was recorded says it exactly (`Capture.tap_order`); this is for names alone.
    """
    if name.startswith(EMBEDDING):
        return (-1, 0)
    layer = layer_of(name)
    if layer is None:
        return (1 << 30, int(not name.startswith(FINAL_NORM)))
    within = name.split(".")[3:]
    if not within:
        return (layer, len(_BLOCKS) + 1)
    return (layer, _BLOCKS.index(within[0]) if within[0] in _BLOCKS else len(_BLOCKS))


def holders_of(name: str) -> list[str]:
    """Modules that hold this one, the nearest first, up to its layer."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 2, -1)]
