"""Hidden states whose errors are written down, and what is localised on them.

Every reference state is (1, 0, 0). The engine errs along the second axis and the trainer along the
third, so their relative errors are the numbers given, and engine against trainer is the square root
of the sum of their squares, over the trainer's norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.findings.localise import localise
from mismatch_lab.schema import Localisation, ModuleError

FLOOR = 0.01
LIMIT_RATIO = 3.0
POSITIONS = 20
MODULES = (
    "model.embed_tokens",
    "model.layers.0.input_layernorm",
    "model.layers.0.self_attn.v_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.self_attn",
    "model.layers.0.mlp.router",
    "model.layers.0.mlp.experts",
    "model.layers.0.mlp",
    "model.layers.0",
    "model.layers.1.self_attn",
    "model.norm",
)


@dataclass(frozen=True)
class Err:
    """Relative errors of one module against the reference."""

    infer: float = FLOOR
    train: float = FLOOR
    floor: float = FLOOR


def state(*axes: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.tile(np.array([1.0, *axes], np.float32), (POSITIONS, 1))


def recorded(
    errors: dict[str, Err], cumulative: dict[str, Err] | None = None
) -> dict[str, Capture]:
    """All captures; `errors` are isolated, and on own inputs too unless `cumulative` says more."""
    base = replace(capture([-1.0] * POSITIONS), probe_positions=np.arange(1, POSITIONS + 1))
    isolated = {name: Err() for name in MODULES} | errors
    own = isolated | (cumulative or {})

    def side(table: dict[str, Err], which: str) -> Capture:
        hidden = {}
        for name, e in table.items():
            axes = {
                "infer": (e.infer, 0, 0),
                "train": (0, e.train, 0),
                "ref": (0, 0, 0),
                "floor": (0, 0, e.floor),
            }
            hidden[name] = state(*axes[which])
        return replace(base, hidden=hidden)

    return {
        "prefill": side(own, "infer"),
        "train": side(own, "train"),
        "ref": side(own, "ref"),
        "floor": side(own, "floor"),
        "train_on_infer": side(own | isolated_only(isolated, own), "train"),
        "ref_on_infer": side(isolated, "ref"),
        "floor_on_infer": side(isolated, "floor"),
    }


def isolated_only(isolated: dict[str, Err], own: dict[str, Err]) -> dict[str, Err]:
    return {name: isolated[name] for name in own if name in isolated}


def found(captures: dict[str, Capture], dtype: str = "bfloat16") -> Localisation:
    result = localise(captures, "standard", dtype, LIMIT_RATIO)
    assert result is not None
    return result


def module(captures: dict[str, Capture], name: str, dtype: str = "bfloat16") -> ModuleError:
    return next(m for m in found(captures, dtype).per_module if m.name == name)


def culprit(errors: dict[str, Err]) -> tuple[str | None, str | None]:
    result = found(recorded(errors))
    return result.first_divergent_module, result.side
