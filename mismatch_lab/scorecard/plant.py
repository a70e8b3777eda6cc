"""From a fault at some severity to what it changes about a diagnosis."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.engines.checkpoint import locate
from mismatch_lab.executors.sources import sources_digest
from mismatch_lab.faults.base import Fault, RunOptions, Severity, Strength
from mismatch_lab.faults.checkpoints import perturb
from mismatch_lab.scorecard.controls import Control
from mismatch_lab.scorecard.setup import EditCheckpoint, PluginCall, Setup

UPDATE_SEED = 4
"""Of the direction in which an update moves the weights."""
MAKES = {"decode": "engine", "train": "trainer"}
"""capture -> worker task that makes it."""


def planted(fault: Fault, severity: Severity, model: str) -> Setup:
    """What the fault changes; `model` is the checkpoint that the case starts from."""
    strength = fault.severities[severity]
    setup = _options(fault, severity, fault.options(strength)) if fault.options else Setup()
    changes = vars(setup) | {}
    if fault.kind == "plugin":
        assert fault.plant is not None
        calls = (_call(fault.plant, strength),)
        changes["trainer_plugin" if fault.side == "train" else "engine_plugin"] = calls
    elif fault.kind == "capture":
        assert fault.rewrite is not None
        assert fault.target is not None
        edit = partial(_rewrite, fault.target, fault.rewrite, strength)
        changes["capture_edits"] = ((MAKES[fault.target], edit),)
    elif fault.kind == "update":
        assert fault.update is not None
        before = str(Path(locate(model)).resolve())
        changes["engine_plugin"] = (_call(fault.update, Path(before)),)
        edit_weights = _weight_update(float(strength), fault.low_rank)
        changes["checkpoint_edits"] = (*setup.checkpoint_edits, edit_weights)
        changes["updated"] = True
    return Setup(**changes)


def healthy(control: Control) -> Setup:
    """What a control changes."""
    from mismatch_lab.scorecard import healthy as changes

    module = changes.__name__
    plugin, edit = control.trainer_plugin, control.checkpoint_edit
    edits = [(edit, getattr(changes, edit))] if edit else []
    if control.update is not None:
        edits.append(_weight_update(control.update, low_rank=False))
    return Setup(
        probe=control.probe,
        seed=control.seed,
        max_tokens=control.max_tokens,
        temperature=control.temperature,
        engine_args=dict(control.engine_args),
        trainer_args=dict(control.trainer_args),
        trainer_plugin=(PluginCall(module, plugin),) if plugin else (),
        checkpoint_edits=tuple(edits),
        updated=control.update is not None,
    )


def _options(fault: Fault, severity: Severity, asked: RunOptions) -> Setup:
    sampling: dict[str, Any] = dict(asked.sampling)
    edit = asked.checkpoint_edit
    name = f"{fault.id} {severity} {_digest(fault.options)}"
    return Setup(
        engine_args=dict(asked.engine_args),
        trainer_args=dict(asked.trainer_args),
        checkpoint_edits=((name, edit),) if edit is not None else (),
        **sampling,
    )


def _call(function: Callable[..., None], argument: Strength | Path) -> PluginCall:
    return PluginCall(function.__module__, function.__qualname__, argument)


def _digest(function: Callable[..., Any] | None) -> str:
    assert function is not None
    return sources_digest(Path(inspect.getfile(inspect.unwrap(function))))


def _weight_update(strength: float, low_rank: bool) -> tuple[str, EditCheckpoint]:
    name = f"update {strength} {low_rank} {UPDATE_SEED}"
    return name, partial(_update, strength, low_rank)


def _update(strength: float, low_rank: bool, folder: Path) -> None:
    """Move the weights of a checkpoint copy in place, as one update does."""
    before = folder.with_name(folder.name + ".before")
    folder.rename(before)
    perturb(before, folder, strength, UPDATE_SEED, low_rank)
    shutil.rmtree(before)


def _rewrite(
    target: str, rewrite: Callable[[Capture, Any], Capture], strength: Strength, captures: Path
) -> None:
    """Store a capture anew as the broken glue would have; its manifest stays as it is."""
    folder = captures / target
    capture, manifest = load_capture(folder)
    shutil.rmtree(folder)
    save_capture(folder, rewrite(capture, strength), manifest)
