"""Whether two taps of one name are of the same thing, before their difference is called an error.

Two programs may mean different things by one module: an expert layer with or without the shared
expert, a projection whose heads lie in another order, weights that are multiplied in earlier or
later. What such a tap differs by reaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32
from mismatch_lab.captures.names import HEAD, kind_of, layer_of
from mismatch_lab.findings.module_error import holders_of, module_error
from mismatch_lab.schema import ModuleError

REACHES = 1 / 20
"""Smallest share of a part's relative error that arrives in what holds it. With noise of 5 % on one
part at a time it was 0.43 and more in mini-gpt-oss (queries least), and 0.09 and more in random
models, whose attention is flat."""

SAME_WIRE = 0.1
"""Relative difference of two recordings up to which they may be one tensor, rounded otherwise."""


def unlike(
    module: ModuleError,
    modules: Mapping[str, ModuleError],
    captures: Mapping[str, Capture],
    floor_ratio: float,
) -> str:
    """Why a module that differs is another thing on the engine than in transformers; empty where it
    is not.

    Args:
        module: its errors.
        modules: all that were compared, by name.
        captures: prefill and ref, on their own inputs.
        floor_ratio: a module's limit over its floor.
    """
    if not module.infer_error > floor_ratio * module.floor:
        return ""  # not seen; or transformers' own differs, in the trainer: it is what it is called
    engine, ref = captures["prefill"], captures["ref"]
    return (
        _without_effect(module, modules, ref, floor_ratio)
        or _not_in_attention(module, engine, ref, floor_ratio)
        or _other_wire(module.name, engine, ref)
    )


def _without_effect(
    module: ModuleError, modules: Mapping[str, ModuleError], ref: Capture, floor_ratio: float
) -> str:
    """What holds the module would have to differ by more than it does."""
    for name in holders_of(module.name):
        holder, share = modules.get(name), _share(module, name, ref)
        if holder is None or np.isnan(holder.infer_error) or share == 0:
            continue
        expected = REACHES * module.infer_error * share
        if max(holder.infer_error, floor_ratio * holder.floor) < expected:
            return (
                f"it differs by {module.infer_error:.2g}, and {name}, which holds it, by "
                f"{holder.infer_error:.1g}: another thing by the same name"
            )
    return ""


def _not_in_attention(
    module: ModuleError, engine: Capture, ref: Capture, floor_ratio: float
) -> str:
    """All that attention does goes through its last projection: what that takes would differ."""
    holder = module.name.rpartition(".")[0]
    inside = [name for name in ref.tap_order if name.rpartition(".")[0] == holder]
    if kind_of(holder) != "attention" or module.name in inside[-1:] or not inside:
        return ""
    last = f"{inside[-1]}:in"
    arrived, _n = module_error(engine.hidden.get(last), ref.hidden.get(last))
    if not max(arrived, floor_ratio * module.floor) < REACHES * module.infer_error:
        return ""
    return (
        f"it differs by {module.infer_error:.2g}, and what {inside[-1]} takes after it by "
        f"{arrived:.1g}: another thing by the same name"
    )


def _share(module: ModuleError, holder: str, ref: Capture) -> float:
    """How much of a holder's output is the module's, at most 1; 0 where that is not known.

    A layer adds attention and MLP to its input, so that their lengths tell. What norms do to a
    layer goes through others.
    """
    if layer_of(holder) is None or holder.count(".") > 2:
        return 1.0
    if module.kind not in ("attention", "mlp") or module.name.count(".") > 3:
        return 0.0
    part, whole = (_length(ref.hidden.get(name)) for name in (module.name, holder))
    return min(1.0, part / whole) if whole > 0 else 0.0


def _length(hidden: Float32 | None) -> float:
    return 0.0 if hidden is None else float(np.sqrt(np.nansum(hidden.astype(np.float64) ** 2)))


def _other_wire(name: str, engine: Capture, ref: Capture) -> str:
    """Where the reference hands one module's output to another as it is, the engine must, too."""
    for given, taken in _wires(name, ref):
        a, b = engine.hidden.get(given), engine.hidden.get(taken)
        if a is None or b is None or a.shape != b.shape:
            continue
        size = _length(b)
        if size > 0 and _length(a - b) > SAME_WIRE * size:
            return (
                f"{given} goes to {taken.removesuffix(':in')} in transformers, and not in the "
                "engine: they are other parts there"
            )
    return ""


def _wires(name: str, ref: Capture) -> list[tuple[str, str]]:
    """(output, input) of modules of one layer that are one tensor on the reference, and of which
    one belongs to `name`.
    """
    layer = ".".join(name.split(".")[:3])
    near = [key for key in ref.hidden if key.startswith(f"{layer}.")]
    outputs = [key for key in near if not key.endswith(":in")]
    inputs = [key for key in near if key.endswith(":in")]
    pairs = [(name, key) for key in inputs] + [(key, f"{name}:in") for key in outputs]
    return [(a, b) for a, b in pairs if a != HEAD and _is_one(ref.hidden.get(a), ref.hidden.get(b))]


def _is_one(a: Float32 | None, b: Float32 | None) -> bool:
    return (
        a is not None
        and b is not None
        and a.shape == b.shape
        and np.array_equal(a, b, equal_nan=True)
    )
