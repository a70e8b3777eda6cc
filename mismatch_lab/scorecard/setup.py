"""What a case changes about a plain diagnosis: faults and healthy controls in one form."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mismatch_lab.checkpoints.config import checkpoint_state, resolve_model_path
from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue
from mismatch_lab.scorecard.healthy import copy_checkpoint

EditCheckpoint = Callable[[Path], None]
EditCaptures = Callable[[Path], None]
"""Called with a run's captures folder, once the task that made them is done."""

PLUGIN_FUNCTION = "patch"
PLUGIN = """\"\"\"Changes this side's model.\"\"\"

from pathlib import Path

{imports}


def {function}(model):
{calls}
"""


@dataclass(frozen=True)
class PluginCall:
    """`function(model, argument)`, or `function(model)`; the function imported from `module`."""

    module: str
    function: str
    argument: float | str | Path | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(import_module(self.module), self.function, None)):
            raise InputError(f"{self.module} has no function {self.function!r} to import.")

    @property
    def text(self) -> str:
        """The argument as Python text, a comma before it."""
        if self.argument is None:
            return ""
        if isinstance(self.argument, Path):
            return f", Path({str(self.argument)!r})"
        return f", {self.argument!r}"


@dataclass(frozen=True)
class Setup:
    """Everything about a diagnosis that a case decides."""

    probe: str | None = None
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    engine_args: dict[str, OptionValue] = field(default_factory=dict)
    trainer_args: dict[str, OptionValue] = field(default_factory=dict)
    engine_plugin: tuple[PluginCall, ...] = ()
    trainer_plugin: tuple[PluginCall, ...] = ()
    checkpoint_edits: tuple[tuple[str, EditCheckpoint], ...] = ()
    """(what the edit depends on, the edit); both sides load the edited copy"""
    updated: bool = False
    """The edited copy is an update of the model: the engine had the model's weights before it."""
    capture_edits: tuple[tuple[str, EditCaptures], ...] = ()
    """(worker task after which, the edit)"""


def merged(first: Setup, second: Setup) -> Setup:
    """Both at once.

    Raises:
        InputError: they want different values of one thing.
    """
    values: dict[str, Any] = {}
    for name, value in vars(second).items():
        other = getattr(first, name)
        if isinstance(value, tuple):
            values[name] = other + value
        elif isinstance(value, bool):
            values[name] = other or value
        elif isinstance(value, dict):
            clashes = [key for key in value if other.get(key, value[key]) != value[key]]
            if clashes:
                raise InputError(f"Two faults want different {name}: {', '.join(clashes)}.")
            values[name] = other | value
        else:
            if None not in (value, other) and value != other:
                raise InputError(f"Two faults want different {name}: {other} and {value}.")
            values[name] = other if value is None else value
    return replace(first, **values)


def plugin_file(calls: tuple[PluginCall, ...], work: Path) -> str | None:
    """`FILE.py:FUNC` of a file that makes the calls in order; its name says nothing of them.

    The same calls give the same path, so that captures made with it can be found again.
    """
    if not calls:
        return None
    imports = [
        f"from {call.module} import {call.function} as step_{number}"
        for number, call in enumerate(calls)
    ]
    steps = [f"    step_{number}(model{call.text})" for number, call in enumerate(calls)]
    text = PLUGIN.format(
        imports="\n".join(imports), function=PLUGIN_FUNCTION, calls="\n".join(steps)
    )
    folder = work / "plugins" / _name_of(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "patch.py"
    if not path.exists():
        temporary = Path(tempfile.mkstemp(dir=folder, suffix=".tmp")[1])
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return f"{path.resolve()}:{PLUGIN_FUNCTION}"


def edited_checkpoint(model: str, setup: Setup, work: Path) -> str:
    """The model itself, or an edited copy of it whose name says nothing of the edits.

    Raises:
        NotApplicableError: an edit finds nothing to change in this model.
    """
    if not setup.checkpoint_edits:
        return model
    named = [name for name, _ in setup.checkpoint_edits]
    state = sorted(checkpoint_state(model).items())
    folder = work / "checkpoints" / _name_of(repr((resolve_model_path(model), state, named)))
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".tmp"))
        try:
            copy_checkpoint(resolve_model_path(model), scratch / "model")
            for _, edit in setup.checkpoint_edits:
                edit(scratch / "model")
            try:
                (scratch / "model").rename(folder)
            except OSError:  # another process has made the same meanwhile
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return str(folder.resolve())


def _name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
