"""From a fault at some severity to what it changes about a diagnosis."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import MANIFEST, load_capture, load_manifest, save_capture
from mismatch_lab.checkpoints.config import resolve_model_path
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
        assert fault.target is not None
        edit = partial(_rewrite, fault, strength)
        changes["capture_edits"] = ((MAKES[fault.target], edit),)
    elif fault.kind == "update":
        assert fault.update is not None
        before = str(Path(resolve_model_path(model)).resolve())
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
    edits = [_named_edit(getattr(changes, edit))] if edit else []
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
    edits: tuple[tuple[str, EditCheckpoint], ...] = ()
    if asked.checkpoint_edit is not None:
        assert fault.options is not None
        name = f"{fault.id} {severity} {_digest(fault.options)}"
        edits = ((name, asked.checkpoint_edit),)
    return Setup(
        engine_args=dict(asked.engine_args),
        trainer_args=dict(asked.trainer_args),
        checkpoint_edits=edits,
        **sampling,
    )


def _call(function: Callable[..., None], argument: Strength | Path) -> PluginCall:
    return PluginCall(function.__module__, function.__qualname__, argument)


@cache
def _digest(function: Callable[..., Any]) -> str:
    """Of the code that the function's module can reach."""
    return sources_digest(Path(inspect.getfile(inspect.unwrap(function))))


def _named_edit(edit: EditCheckpoint) -> tuple[str, EditCheckpoint]:
    return f"{getattr(edit, '__name__', '')} {_digest(edit)}", edit


def _weight_update(strength: float, low_rank: bool) -> tuple[str, EditCheckpoint]:
    name = f"update {strength} {low_rank} {UPDATE_SEED} {_digest(perturb)}"
    return name, partial(_update, strength, low_rank)


def _update(strength: float, low_rank: bool, folder: Path) -> None:
    """Move the weights of a checkpoint copy in place, as one update does."""
    before = folder.with_name(folder.name + ".before")
    folder.rename(before)
    perturb(before, folder, strength, UPDATE_SEED, low_rank)
    shutil.rmtree(before)


def _rewrite(fault: Fault, strength: Strength, captures: Path) -> None:
    """Store captures anew as the broken glue would have; their manifests stay as they are.

    The trainer's glue handles every pass of the trainer, so all of them are rewritten.
    """
    target, spoil = fault.target, _spoiler(fault, strength, captures)
    made = {
        folder.name: load_capture(folder)
        for folder in sorted(path.parent for path in captures.glob(f"[!.]*/{MANIFEST}"))
        if folder.name == target or (target == "train" and _is_trainers(folder))
    }
    whole = max(
        (capture for capture, _ in made.values()), key=lambda c: c.rows.n_rows, default=None
    )
    for name, (capture, manifest) in made.items():
        assert whole is not None
        spoilt = _spoilt(capture, whole, spoil)
        shutil.rmtree(captures / name)
        save_capture(captures / name, spoilt, manifest)


def _spoiler(fault: Fault, strength: Strength, captures: Path) -> Callable[[Capture], Capture]:
    """What the fault does to one capture; where it copies, from the other side's among these."""
    if fault.copy is not None:
        assert fault.source is not None
        source, _ = load_capture(captures / fault.source)
        copy = fault.copy
        return lambda capture: copy(capture, source, strength)
    assert fault.rewrite is not None
    rewrite = fault.rewrite
    return lambda capture: rewrite(capture, strength)


def _is_trainers(folder: Path) -> bool:
    """A pass of the trainer's over the tokens; replays of module inputs have no glue."""
    return load_manifest(folder).side == "train" and not folder.name.endswith("_on_infer")


def _spoilt(capture: Capture, whole: Capture, spoil: Callable[[Capture], Capture]) -> Capture:
    """A pass over the first rows only: what the glue does depends on the rows that it handles."""
    tokens = capture.rows.n_tokens
    if tokens == whole.rows.n_tokens:
        return spoil(capture)
    logp = whole.logp.copy()
    logp[:tokens] = capture.logp
    return replace(capture, logp=spoil(replace(whole, logp=logp)).logp[:tokens])
